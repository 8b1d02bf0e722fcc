"""Post verdicts, issues and baselines to GitHub through its command `gh`: `python -m fluxfast.ci`.

The texts come from `fluxfast report` and `fluxfast history`. Each command can be run by hand;
GH_REPO names the repository. Only Python, git and gh are required, except for `accepted` and
`proposal`, which need fluxfast installed: every command that gets a token that can write runs
without packages. The wheel does not contain these programs.
"""
