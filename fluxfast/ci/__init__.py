"""Post verdicts, issues and baselines to GitHub through its command `gh`: `python -m fluxfast.ci`.

The texts come from `fluxfast report` and `fluxfast history`. Each command can be run by hand;
GH_REPO names the repository. Only Python and gh are required, except for `accepted` and `propose`,
which need fluxfast installed. The wheel does not contain these programs.
"""
