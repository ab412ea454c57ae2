"""Time of `import sptune`, `sptune --help` and of loading the cached default model. Bars: 0.5 s, 0.5 s, 3 s."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "import sptune": ([sys.executable, "-c", "import sptune"], 0.5),
    "sptune --help": ([sys.executable, "-m", "sptune.cli.main", "--help"], 0.5),
}
LOAD = (
    "import time; from sptune.model.load import load_base; import transformers; load_base('smollm2-135m');"
    "start = time.perf_counter(); load_base('smollm2-135m'); print(time.perf_counter() - start)"
)


def main() -> None:
    for name, (command, bar) in COMMANDS.items():
        taken = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            taken.append(time.perf_counter() - start)
        seconds = statistics.median(taken)
        print(f"{name}: {seconds:.2f} s (at most {bar}: {'met' if seconds <= bar else 'NOT met'})")
    output = subprocess.run([sys.executable, "-c", LOAD], check=True, capture_output=True, text=True).stdout
    seconds = float(output.splitlines()[-1])
    print(f"loading the cached default model: {seconds:.2f} s (at most 3: {'met' if seconds <= 3 else 'NOT met'})")


if __name__ == "__main__":
    main()
