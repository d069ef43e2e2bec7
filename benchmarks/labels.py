"""Few labels: a pretrained backbone, fine-tuned, against the best-initialised scratch.

Both have the same ridge as their anchor, solved on the same few windows, a zero head, and equal batches; scratch's
backbone alone is drawn anew. So any difference is what pretraining brings beyond the anchor.

    python benchmarks/labels.py --root my_city --labels 0.1 --seeds 0 1 2
"""

import cells


def main() -> None:
    parser = cells.arguments(__doc__ or "", ".cityloop/benchmarks/labels")
    parser.add_argument("--labels", type=float, default=0.1, help="share of the training windows, or a count")
    given = parser.parse_args()
    few = {"labels": given.labels}
    settings = {"pretrained": few, "scratch": {**few, "scratch": True}}
    rows = cells.results(given.root, given.out, cells.tasks(given.root, given.tasks), given.seeds, settings)
    print(cells.compare(rows, "pretrained", "scratch"))


if __name__ == "__main__":
    main()
