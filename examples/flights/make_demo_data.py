"""Make what `tidemill demo` scores: src/tidemill/cli/demo_data/. Run it again only to change the data.

The model learns from January to June; the flights are a sample of July to December, which it never saw.
"""

from __future__ import annotations

from pathlib import Path

from flights import load_flights, train, write_flights

TARGET_FOLDER = Path(__file__).resolve().parents[2] / "src" / "tidemill" / "cli" / "demo_data"
SAMPLE_ROWS = 5_000
LEFT_OUT = ("year", "hour", "minute", "dep_time", "arr_time", "air_time")
MAX_BYTES = 200_000


def main() -> None:
    flights = load_flights()
    sample = flights[flights["month"] > 6].sample(SAMPLE_ROWS, random_state=1).sort_index()
    TARGET_FOLDER.mkdir(parents=True, exist_ok=True)
    write_flights(sample.drop(columns=list(LEFT_OUT)), TARGET_FOLDER / "flights.parquet")
    model = train(flights[flights["month"] <= 6], trees=24, leaves=31)
    (TARGET_FOLDER / "model.txt").write_text(model.model_to_string(), encoding="utf-8")
    sizes = {path.name: path.stat().st_size for path in sorted(TARGET_FOLDER.iterdir())}
    print("\n".join(f"{size:>9,} bytes  {name}" for name, size in sizes.items()))
    if sum(sizes.values()) > MAX_BYTES:
        raise SystemExit(f"Together they are over {MAX_BYTES:,} bytes.")


if __name__ == "__main__":
    main()
