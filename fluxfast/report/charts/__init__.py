"""The charts of the report page, as Vega-Lite specifications made with Altair."""
