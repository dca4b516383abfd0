"""The one error that is meant for the user, and sentences for what a machine refuses.

Libraries say in their own ways that a disk is full or a file damaged. Where a script ends with one of these, explain() has the sentence that
progress.py's hook prints in place of the traceback.
"""

import errno
import re

FULL_DISK_CODES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FULL_DISK_WORDS = ("No space left on device", "Disk quota exceeded", "File too large", "not enough disk space")


class UserError(SystemExit):
    """Something the user can mend: one sentence that says what is wrong, where, and what to do.

    As a SystemExit it ends a script with that sentence on stderr and exit status 1, without a traceback,
    wherever it is raised. A defect of ours is any other exception and keeps its traceback.
    """

    def __init__(self, sentence: str):
        super().__init__(sentence)


def is_full_disk(problem: BaseException) -> bool:
    return getattr(problem, "errno", None) in FULL_DISK_CODES or any(words in str(problem) for words in FULL_DISK_WORDS)


def explain(problem: BaseException) -> str | None:
    """What the machine refused, where that can be told, and what to do; None for anything else: a defect of ours."""
    text, kind = " ".join(str(problem).split()), type(problem).__name__
    if is_full_disk(problem):
        return f"no space left on the disk ({text[:200]}): free some, or point MEDREP_ROOT or MEDREP_SPILL at another; the same command goes on"
    if isinstance(problem, PermissionError) or getattr(problem, "errno", None) == errno.EROFS:
        return f"cannot write or read {getattr(problem, 'filename', None) or text}: give permission, or point MEDREP_ROOT elsewhere"
    if kind == "OutOfMemoryException":  # DuckDB's
        return (
            f"the query engine needed more memory than --memory allows ({text[:200]}): give it more, such as --memory 32GB, or fewer --threads, "
            "or room to spill in MEDREP_SPILL"
        )
    if kind == "OutOfMemoryError":  # torch's
        return f"the GPU has too little memory ({text[:200]}): a smaller batch_tokens needs less (--set pretraining.batch_tokens=4096)"
    if isinstance(problem, MemoryError):
        return f"the machine has too little memory ({text[:200]}): end what else runs, or take a larger one"
    # pyarrow raises OSErrors, too, of no module of its own
    of_tables = type(problem).__module__.partition(".")[0] in ("duckdb", "_duckdb", "pyarrow") or type(problem) is OSError
    if of_tables and re.search(
        r"magic bytes|TProtocolException|footer|[Tt]hrift|[Pp]arquet.*(corrupt|truncated|too small)|[Ii]nvalid.*[Pp]arquet", text
    ):
        return f"a parquet file is damaged or cut off ({text[:300]}): MEDREP_FRESH=1 makes those of ours anew; export one of yours again"
    if "DataLoader worker" in text and "killed" in text or kind == "BrokenProcessPool":
        return f"a process that worked for this one was killed ({text[:200]}), perhaps as memory ran out: the same command goes on"
    return None
