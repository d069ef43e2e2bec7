"""A task's entry in the retrain.yaml of branch `live`, as a commit of its own."""

from collections.abc import Sequence
from pathlib import Path

from pipelines.core.errors import UserError
from pipelines.core.params import RETRAIN
from pipelines.runs import workspace
from pipelines.runs.refs import LIVE, Home
from pipelines.runs.start import TRIES, by_its_own, deploy, refuse_edits, trailer


def commit(task: str, words: Sequence[str], message: str, *, root: Path = Path()) -> tuple[str, bool]:
    """`cityloop retrain TASK WORDS` at live's head, brought there; gives live's head, and whether it moved.

    When live moves meanwhile it is done again on its new head. Raises UserError as the command does.
    """
    home = Home.of(root)
    for _ in range(TRIES):
        with workspace.opened(home) as repository:
            live = home.heads(repository, LIVE).get(LIVE) or deploy(root=root)
            refuse_edits(home)
            home.fetch(repository, LIVE)
            repository("checkout", "-q", "--detach", live)
            by_its_own(home, repository.folder, "retrain", task, *words)
            text = (repository.folder / RETRAIN).read_text()
            if text == repository.read(live, RETRAIN):
                return live, False
            made = repository.commit(message + trailer(), {RETRAIN: text}, tree=live, parents=[live])
            if home.push(repository, {LIVE: made}, {LIVE: live}):
                return made, True
    raise UserError(f"{LIVE} of {home.git} moved {TRIES} times meanwhile; again: cityloop retrain {task} --live")
