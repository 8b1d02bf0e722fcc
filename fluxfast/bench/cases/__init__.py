"""Cases: the cells of the optimization matrix, and their plans for one machine."""
