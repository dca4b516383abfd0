"""Answers prompts by a language model on this machine, as medrep.llm.chat_client does by a service.

    model = local_model.LocalModel(settings)
    model.answer_all(requests, answers, label="ratings")         # greedily, settings.prompts_at_once at a time

Any causal model with a chat template, by its Hugging Face id or folder: MedGemma 27B text is a Gemma 3 (Gemma3ForCausalLM), 54 GB
in bf16. It is spread over the GPUs that are there and, if they are too small, the main memory. Answers are kept as they come.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import torch
from jinja2 import TemplateError

from medrep.errors import UserError
from medrep.llm import replies
from medrep.llm.answer_file import AnswerFile, StopAsking
from medrep.llm.chat_requests import Request
from medrep.progress import print_line, progress_bar
from medrep.settings import RatingConfig
from medrep.vectors import hub

MAX_ANSWER_TOKENS = 8192  # tokens, where the settings give no limit
WORKING_MEMORY_SHARE = 0.1  # of the weights' bytes, for what is computed and remembered of a prompt


class LocalModel:
    """Opened when it is first asked."""

    def __init__(self, settings: RatingConfig):
        self.settings, self.name = settings, settings.model
        self.opened: tuple[Any, Any] | None = None  # tokenizer and model

    def fingerprint(self) -> dict:
        """What tells this model from another of its name, as far as that is known before it is opened."""
        files = sorted(path for path in Path(self.name).glob("*") if path.is_file()) if Path(self.name).is_dir() else []
        return {"files": [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files], "precision": self.settings.precision}

    def open(self):
        """Tokenizer and model; whatever hinders it is said with the remedy."""
        transformers, name = hub.quiet_transformers(), self.name
        remedy = (
            f"accept its licence at https://huggingface.co/{name} and run `hf auth login`, or bring a folder (`hf download`) and give it as "
            "--llm FOLDER, or name a server's address as --base-url"
        )
        if Path(name).is_dir() or name.startswith(("/", ".", "~")):
            remedy = "--llm takes the folder of a causal language model, as `hf download` brings it, or its Hugging Face id"
            if not Path(name).is_dir():
                raise UserError(f"{name} is no folder: {remedy}")
        location = {"local_files_only": Path(name).is_dir() or not hub.hub_reachable()}
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(name, padding_side="left", **location)
            self.check_memory(transformers, transformers.AutoConfig.from_pretrained(name, **location))
            dtype = torch.bfloat16 if self.settings.precision == "bf16" else torch.float32
            model = transformers.AutoModelForCausalLM.from_pretrained(name, dtype=dtype, device_map="auto", **location).eval()
        except (OSError, ValueError) as problem:
            reason = " ".join(str(problem).split())[:300].rstrip(".")
            raise UserError(f"the language model {name} cannot be had ({reason}): {remedy}") from None
        if not tokenizer.chat_template:
            raise UserError(f"the language model {name} has no chat template: give one that is tuned to instructions, as MedGemma's -it")
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        where = f"{self.settings.precision} on {' and '.join(sorted({str(p.device) for p in model.parameters()}))}"
        print_line(f"{name}: {model.config.architectures and model.config.architectures[0]}, {model.num_parameters():,} weights in {where}")
        self.opened = tokenizer, model

    def opened_model(self) -> tuple[Any, Any]:
        """Tokenizer and model; `open` comes first."""
        assert self.opened, "open() was not called"
        return self.opened

    def check_memory(self, transformers, model_config):
        """Refuse a model that does not fit, before its weights are downloaded and the machine begins to swap."""
        if getattr(model_config, "quantization_config", None):
            return  # how much that takes, its own loader knows
        with torch.device("meta"):
            weights = sum(p.numel() for p in transformers.AutoModelForCausalLM.from_config(model_config).parameters())
        needed = weights * (2 if self.settings.precision == "bf16" else 4) * (1 + WORKING_MEMORY_SHARE)
        gpus = sum(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
        memory = psutil.virtual_memory().available
        if needed > gpus + memory:
            raise UserError(
                f"the language model {self.name} needs {needed / 1e9:,.0f} GB in {self.settings.precision}, and here "
                f"{(gpus + memory) / 1e9:,.0f} GB are free: run it where a GPU has them, ask a server (--base-url), or give a "
                "smaller --llm"
            )
        if torch.cuda.is_available() and needed > gpus:
            print_line(
                f"{self.name} needs {needed / 1e9:,.0f} GB and {gpus / 1e9:,.0f} are free on the GPUs: a part stays in main memory, which is slow"
            )

    def answer_all(self, requests: Sequence[Request], answers: AnswerFile, label: str):
        """Keep the answer to every request. The most likely token each time: one machine answers a prompt the same way twice."""
        if not self.opened:
            self.open()  # before the progress line
        with progress_bar(description=label, total=len(requests), unit="answers") as progress:
            for start in range(0, len(requests), self.settings.prompts_at_once):
                part = requests[start : start + self.settings.prompts_at_once]
                try:
                    for request, reply in zip(part, self.generate(part), strict=True):
                        answers.append(request.key, reply)
                except StopAsking as reason:
                    raise UserError(f"{reason}; what was answered is kept, and the same command asks for the rest") from None
                answers.sync()
                progress.update(len(part))

    @torch.inference_mode()
    def generate(self, requests: Sequence[Request]) -> list[dict]:
        """The answer to each, as AnswerFile keeps it: the text as it came, whether it broke off, and numbers of tokens."""
        tokenizer, model = self.opened_model()
        prompts = [self.format_prompt(request) for request in requests]
        batch = tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False).to(model.device)  # the template has them
        try:
            # temperature and the like: Gemma's generation_config.json samples, and transformers warns of what it will not use
            tokens = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                pad_token_id=tokenizer.pad_token_id,
                max_new_tokens=self.settings.max_tokens or MAX_ANSWER_TOKENS,
                do_sample=False,
                temperature=None,
                top_p=None,
                top_k=None,
            )
        except torch.OutOfMemoryError:
            raise UserError(
                f"the GPU's memory is full at {len(requests)} prompts: --set rating.prompts_at_once=1 or a smaller --batch takes less"
            ) from None
        ends = model.generation_config.eos_token_id
        ends = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])}
        found = []
        for prompt_tokens, answer_tokens in zip(
            batch["attention_mask"].sum(dim=1).tolist(), tokens[:, batch["input_ids"].shape[1] :].tolist(), strict=True
        ):
            end = next((i for i, token in enumerate(answer_tokens) if token in ends), None)
            # marks of thoughts are special tokens to some models, and are needed to tell them from the answer
            found.append(
                replies.keep_raw(tokenizer.decode(answer_tokens[:end]), "length" if end is None else "stop", refused=False)
                | {"input_tokens": prompt_tokens, "output_tokens": len(answer_tokens) if end is None else end + 1}
            )
        return found

    def format_prompt(self, request: Request) -> str:
        tokenizer, _ = self.opened_model()
        messages = [{"role": "system", "content": request.system}, {"role": "user", "content": request.user}]
        try:
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        except TemplateError:  # some know no system: Gemma 2's
            messages = [{"role": "user", "content": f"{request.system}\n\n{request.user}"}]
            return tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
