"""What the workflows say to GitHub, through its command `gh`: `python -m fluxfast.ci`.

Texts come from `fluxfast report` and `fluxfast history`. Each command can be run by hand; GH_REPO
says which repository. Needs Python and gh alone, but for `accepted` and `propose`, which need
fluxfast installed.
"""
