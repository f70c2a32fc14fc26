"""`make demo`: score real flights with a real model, read the result, then kill a run half way and let it go on.

Everything happens under build/demo with the `tidemill` command that a user would type; this script only
prepares the data, types the commands, and checks what came out with pandas and LightGBM alone.
"""

from __future__ import annotations

import filecmp
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from flights import features_of, load_flights, train, write_flights

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "build" / "demo"
KEEP = "time_hour,carrier,flight,origin,dest,arr_delay"
ROWS_PER_CHUNK = 8_000
KILL_AT_SHARE = 0.5
Identity = tuple[int, int]
READ_IT = """
import pandas as pd

scores = pd.read_parquet("scores")
print(scores.sample(5, random_state=3).to_string(index=False))

unseen = scores[scores.time_hour >= "2013-07-01"].dropna(subset="arr_delay")
error = (unseen.prediction - unseen.arr_delay).abs().mean()
print(f"July to December, which the model never saw: {error:.1f} minutes off on average")
"""


def main() -> None:
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)

    say("1. Real data and a real model")
    flights = prepare()

    say("2. Score every flight")
    run(scoring("scores"))

    say("3. Read the result")
    print(READ_IT.strip())
    print()
    run([sys.executable, "-c", READ_IT], shown="python")
    check_values(flights)

    say("4. The same again to another folder, killed with -9 half way")
    parts = kill_half_way(scoring("scores-2", scorers=1), "scores-2")

    say("5. The same command again: it goes on")
    run(scoring("scores-2", scorers=1))
    check_resumed(parts)

    say("6. Killed or not, the result is the same, byte for byte")
    run(["diff", "-r", "scores", "scores-2"])
    check_equal()
    place = FOLDER.relative_to(ROOT)
    print(f"\nEverything is under {place}; look around, and try: TIDEMILL_HOME={place}/home tidemill jobs list")


def prepare() -> pd.DataFrame:
    """Write one Parquet file per month and a model that learned from January to June."""
    flights = load_flights().sort_values("month", kind="stable", ignore_index=True)
    folder = FOLDER / "flights"
    folder.mkdir()
    for month, of_month in flights.groupby("month"):
        write_flights(of_month, folder / f"2013-{month:02}.parquet")
    megabytes = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
    print(f"flights/    {len(flights):,} flights that left New York City in 2013: 12 Parquet files, {megabytes:.1f} MB")
    started = time.monotonic()
    train(flights[flights["month"] <= 6], trees=300, leaves=63).save_model(FOLDER / "model.txt")
    seconds = time.monotonic() - started
    print(f"model.txt   how late they arrive: LightGBM, 300 trees, learned from January to June in {seconds:.0f} s")
    return flights


def scoring(output: str, *, scorers: int | None = None) -> list[str]:
    """The command line. Small chunks, so that there is something to go on from on this small input."""
    words = ["tidemill", "run", "model.txt", "flights", "-o", output, "--keep", KEEP]
    words += ["--rows-per-chunk", str(ROWS_PER_CHUNK)]
    return words if scorers is None else [*words, "--scorers", str(scorers)]


def run(words: list[str], *, shown: str | None = None) -> None:
    """Echo a command, run it, and stop the demo if it fails."""
    process = start(words, shown=shown)
    if process.wait() != 0:
        raise SystemExit(f"The demo failed: exit code {process.returncode} of {words[0]}.")


def start(words: list[str], *, shown: str | None = None) -> subprocess.Popen[bytes]:
    print(f"$ {shown or shlex.join(words)}", flush=True)
    errors = None if sys.stderr.isatty() else subprocess.STDOUT
    return subprocess.Popen(resolved(words), cwd=FOLDER, env=environment(), stderr=errors)


def resolved(words: list[str]) -> list[str]:
    """Use this environment's `tidemill`, wherever the shell's may be."""
    return [sys.executable, "-m", *words] if words[0] == "tidemill" else words


def environment() -> dict[str, str]:
    return {**os.environ, "TIDEMILL_HOME": str(FOLDER / "home")}


def kill_half_way(words: list[str], output: str) -> set[Identity]:
    """Start the command, kill it once half of its chunks lie in staging, show that nothing is visible.

    Returns which files lay in staging.
    """
    enough = int(len(list((FOLDER / "scores").iterdir())) * KILL_AT_SHARE)
    process = start(words)
    while len(parts_of(output)) < enough:
        if process.poll() is not None:
            raise SystemExit(f"The demo failed: the run ended with {process.returncode} before it could be killed.")
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    print(f"\n$ kill -9 {process.pid}", flush=True)
    process.wait()
    run(["ls", "-A"])
    if (FOLDER / output).exists():
        raise SystemExit(f"The demo failed: {output} is visible before its job committed.")
    parts = parts_of(output)
    print(f"There is no {output} yet. {len(parts)} parts wait in .{output}.tidemill.")
    return parts


def parts_of(output: str) -> set[Identity]:
    return {identity(path) for path in (FOLDER / f".{output}.tidemill").glob("*/parts/*.predictions.parquet")}


def identity(path: Path) -> Identity:
    """Which file it is, whatever its name: inode and time of writing (inodes are used again)."""
    stat = path.stat()
    return stat.st_ino, stat.st_mtime_ns


def check_resumed(parts_before: set[Identity]) -> None:
    """Parts that were committed before the kill are published as they were: the very same files."""
    published = {identity(path) for path in (FOLDER / "scores-2").iterdir()}
    reused = len(published & parts_before)
    print(f"\nOf {len(published)} published files {reused} are the very ones that were written before the kill.")
    if not reused:
        raise SystemExit("The demo failed: the second run started again from nothing.")


def check_values(flights: pd.DataFrame) -> None:
    """Every flight has the value that LightGBM itself gives it, in the order of the input."""
    import lightgbm as lgb

    scores = pd.read_parquet(FOLDER / "scores")
    same_rows = scores["flight"].tolist() == flights["flight"].tolist()
    expected = lgb.Booster(model_file=FOLDER / "model.txt").predict(features_of(flights))
    if not same_rows or not np.array_equal(scores["prediction"].to_numpy(), np.asarray(expected)):
        raise SystemExit("The demo failed: the predictions are not LightGBM's own.")
    print(f"\nAll {len(scores):,} predictions are LightGBM's own, in the order of the input.")


def check_equal() -> None:
    names = sorted(path.name for path in (FOLDER / "scores").iterdir())
    same, different, errors = filecmp.cmpfiles(FOLDER / "scores", FOLDER / "scores-2", names, shallow=False)
    others = {path.name for path in (FOLDER / "scores-2").iterdir()} ^ set(names)
    if different or errors or others:
        raise SystemExit(f"The demo failed: {different or errors or others} differ.")
    print(f"{len(same)} files of scores and scores-2 are equal.")


def say(title: str) -> None:
    print(f"\n\033[1m{title}\033[0m\n" if sys.stdout.isatty() else f"\n{title}\n", flush=True)


if __name__ == "__main__":
    main()
