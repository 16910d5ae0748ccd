"""What users are told about bad input, case by case: the table of docs/errors.md.

python -m benchmarks.bad_input
"""

import logging
import os
import tempfile
from pathlib import Path

from tests.checkpoint.bad_files import CASES, complaint


def main() -> None:
    logging.disable()
    print("| case | message |")
    print("|---|---|")
    for name, case in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            _, message = complaint(case, Path(folder))
            shown = message.replace(folder + os.sep, "").replace("|", "\\|").replace("`", "'")
        print(f"| {name} | {shown} |")


if __name__ == "__main__":
    main()
