"""Rate the features a finetuned model attends to, with a medical language model.

    cd codes
    CUDA_VISIBLE_DEVICES=0 python experiments/medgemma.py --rep medrep --outcome MT --seed 100 --ex mimic

This stage is not in this version: it ends with an error that says so.
"""
import argparse

from medrep.errors import UserError


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rep", default="medrep")
    parser.add_argument("--outcome", default="MT")
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--ex", default="mimic", help="whose features: a hospital's name")
    args = parser.parse_args(argv)
    raise UserError(f"rating features by a language model is not in this version; the features of --rep {args.rep} --outcome {args.outcome} "
                    f"--seed {args.seed} are in attention_{args.ex}.parquet, which finetune.py --extract-attention-score writes")


if __name__ == "__main__":
    main()
