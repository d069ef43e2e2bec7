"""LoRA against full fine-tuning of the same backbone.

python benchmarks/lora.py --root my_city --seeds 0 1 2
"""

import cells


def main() -> None:
    parser = cells.arguments(__doc__ or "", ".cityloop/benchmarks/lora")
    parser.add_argument("--method", choices=["lora", "adalora", "head"], default="lora")
    given = parser.parse_args()
    settings = {given.method: {"method": given.method}, "full": {"method": "full"}}
    rows = cells.results(given.root, given.out, cells.tasks(given.root, given.tasks), given.seeds, settings)
    print(cells.compare(rows, given.method, "full"))


if __name__ == "__main__":
    main()
