"""A city's graph run stage by stage, each in a workspace of its own, and branch `live` moved on by what succeeded.

    refs/heads/live            main, with the city's own dvc.lock, window.yaml and retrain.yaml
    refs/runs/<run>/base       the commit a run works at: live's head with the run's windows
    refs/runs/<run>/graph      what dvc.yaml says at that commit, as JSON
    refs/runs/<run>/<stage>    that stage's dvc.lock entry, once it succeeded
    refs/runs/<run>/merged     the commit that brought them to live

All of it lies in one git repository, the home: by default the checkout, to which nobody else looks. Only refs and
objects are added there; its files and its index are never touched (but see `refs.Home.push`).
"""
