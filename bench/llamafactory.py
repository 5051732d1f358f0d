"""LLaMA-Factory as a contender: full fine-tuning of all weights in fp32 on the CPU, in an environment of its own.

    python bench/llamafactory.py FOLDER

installs it into FOLDER (about 1.4 GB, once) and prints its Python; ``sft`` trains with that.

What is as LLaMA-Factory has it: rows are padded to a multiple of 8, the newline after the target is learned too, the
norm of the gradient is cut at 1, and weights are saved at the end.  What is chosen in its favour: no gradient
checkpointing, nothing logged or saved on the way.  ``sft`` can also put rows of similar length together.
"""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

from measure import peak_memory

# The newest that llamafactory 0.9.5 admits; torch is ours.
PINS = ["torch==2.13.0", "transformers==5.6.0", "trl==0.24.0", "peft==0.18.1", "accelerate==1.11.0", "datasets==4.0.0",
        "omegaconf==2.4.0"]  # fmt: skip
# Without its needs: the rest of them serve its web interface, other hubs, images and sound.
ALONE = "llamafactory==0.9.5"
# It imports torchaudio whatever it trains, and PyPI's needs CUDA's libraries merely to be imported.
STUB = '"""Stands in for torchaudio, which LLaMA-Factory imports and uses for sound alone."""\n'

DATA = {
    "file_name": "rows.json",
    "formatting": "sharegpt",
    "columns": {"messages": "messages"},
    "tags": {
        "role_tag": "role", "content_tag": "content",
        "system_tag": "system", "user_tag": "user", "assistant_tag": "assistant",
    },
}  # fmt: skip


def install(folder: Path) -> Path:
    """The Python of a virtual environment in ``folder`` that has LLaMA-Factory; made if it is not there yet.

    Packages come from wherever pip is set up to look, the CPU build of torch included.
    """
    python, ready, wanted = folder.absolute() / "bin" / "python", folder / "pins.txt", "\n".join([*PINS, ALONE])
    if ready.exists() and ready.read_text() == wanted:
        return python
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    subprocess.run([*pip, *PINS], check=True)
    subprocess.run([*pip, "--no-deps", ALONE], check=True)
    where = subprocess.check_output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True)
    Path(where.strip(), "torchaudio.py").write_text(STUB)
    ready.write_text(wanted)
    return python


def sft(
    python: Path, model: Path, rows: list[dict], folder: Path,
    *, batch: int, micro_batch: int, learning_rate: float, window: int, threads: int, by_length: bool = False,
) -> dict:  # fmt: skip
    """Train the model in ``model`` on ``rows`` ({"messages", "target"}) for one epoch; files go to ``folder``.

    Returns seconds (of training alone, as LLaMA-Factory reports them), tokens (read, padding included), loss (mean over
    the steps), steps, and peak_bytes (resident, of the whole process tree from its start, sampled as bench/measure.py
    does).  Rows must fit in ``window`` tokens: LLaMA-Factory cuts longer ones at a token.  Raises RuntimeError when the
    training fails or leaves rows out.
    """
    told = [{"messages": [*r["messages"], {"role": "assistant", "content": r["target"]}]} for r in rows]
    how = {
        "stage": "sft",
        "mask_history": True,
        "train_sampling_strategy": "group_by_length" if by_length else "random",
    }
    if batch % micro_batch:
        raise ValueError(f"batch {batch} is not a multiple of micro_batch {micro_batch}")
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    config = how | {
        "do_train": True, "finetuning_type": "full", "model_name_or_path": str(model.absolute()),
        "dataset_dir": str(folder), "dataset": "rows", "output_dir": str(folder / "out"),
        "overwrite_cache": True, "overwrite_output_dir": True,
        "template": "chatml",  # the one of src/decoupled_esc/models.py; "qwen" would add Qwen's own system message
        "cutoff_len": window + 1,  # one for the newline after the target
        "packing": False, "bf16": False, "fp16": False, "use_cpu": True,
        "disable_gradient_checkpointing": True, "flash_attn": "sdpa",
        "num_train_epochs": 1.0, "per_device_train_batch_size": micro_batch,
        "gradient_accumulation_steps": batch // micro_batch, "learning_rate": learning_rate,
        "optim": "adamw_torch", "lr_scheduler_type": "constant",
        "include_num_input_tokens_seen": "all", "logging_strategy": "epoch", "save_strategy": "no",
        "eval_strategy": "no", "report_to": "none", "disable_tqdm": True, "plot_loss": False,
    }  # fmt: skip
    (folder / "rows.json").write_text(json.dumps(told), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": DATA}))
    (folder / "train.yaml").write_text(json.dumps(config, indent=1))  # JSON is YAML; 0.9.5 fails on a file named .json
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads), "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "4294967296",
        "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"),
        "PYTHONPATH": "",  # this file has the name of what is imported there
    }  # fmt: skip
    log = folder / "log.txt"
    with log.open("w") as out:
        process = subprocess.Popen(
            [python.absolute().parent / "llamafactory-cli", "train", folder / "train.yaml"],
            cwd=folder, env=environment, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
        peak = peak_memory(process)
    said = log.read_text(errors="replace")
    if process.returncode:
        raise RuntimeError(f"LLaMA-Factory ended with {process.returncode}:\n{said[-4000:]}")
    result = json.loads((folder / "out" / "train_results.json").read_text())
    state = json.loads((folder / "out" / "trainer_state.json").read_text())
    if "abnormal example" in said or state["global_step"] != math.ceil(len(told) / batch):
        raise RuntimeError(f"LLaMA-Factory left rows out ({state['global_step']} steps):\n{said[-4000:]}")
    return {
        "seconds": result["train_runtime"], "tokens": int(state["num_input_tokens_seen"]), "loss": result["train_loss"],
        "steps": state["global_step"], "peak_bytes": peak,
    }  # fmt: skip


if __name__ == "__main__":
    print(install(Path(sys.argv[1])))
