"""What a network costs: parameters, multiply-accumulates (MACs), size, and the time of a forward pass."""

import copy
import statistics
import time

import torch

IMAGE_SIZE = 224  # pixels, of the latency and of the first count of MACs
LARGE_IMAGE_SIZE = 256  # pixels, of the second count
RUNS = {1: 20, 32: 3}  # batch size: number of forward passes that its latency is the median of


def count_macs(encoder, image_size):
    """Return (multiply-accumulates, parameters) of one image, counted by thop on a copy (it leaves hooks behind)."""
    import thop  # only this count needs it

    encoder = copy.deepcopy(encoder).cpu().eval()
    macs, _ = thop.profile(encoder, inputs=(torch.zeros(1, 3, image_size, image_size),), verbose=False)
    return macs, sum(parameter.numel() for parameter in encoder.parameters())


def median_seconds(work, num_runs, warm_up=3):
    """Return the median time of `work()` in seconds over `num_runs` calls, after `warm_up` calls."""
    times = []
    for _ in range(warm_up + num_runs):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times[warm_up:])


@torch.inference_mode()
def forward_ms(encoder, batch_size, device, num_runs):
    """Return the median time in ms of one forward pass of `batch_size` images of IMAGE_SIZE pixels."""
    encoder = copy.deepcopy(encoder).to(device).eval()
    images = torch.randn(batch_size, 3, IMAGE_SIZE, IMAGE_SIZE, device=device)

    def forward():
        encoder(images)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return 1000 * median_seconds(forward, num_runs)


def measure(encoder, devices):
    """Return the costs of an encoder, by column of graphs/complexity.csv; "latency_ms" is {"cpu batch 1": ms, ...}."""
    macs, parameters = count_macs(encoder, IMAGE_SIZE)
    return {
        "params_m": parameters / 1e6,
        "macs_g": macs / 1e9,
        "macs_g_256px": count_macs(encoder, LARGE_IMAGE_SIZE)[0] / 1e9,
        "checkpoint_mb": sum(v.numel() * v.element_size() for v in encoder.state_dict().values()) / 1e6,
        "latency_ms": {
            f"{device.type} batch {batch_size}": forward_ms(encoder, batch_size, device, num_runs)
            for device in devices
            for batch_size, num_runs in RUNS.items()
        },
    }


def header(devices):
    """Return the line above the rows that `row_text` returns."""
    latencies = [f"{f'{device.type} batch {batch_size} ms':>19}" for device in devices for batch_size in RUNS]
    return f"{'encoder (embed_size)':<22}{'params M':>9}{'MACs G':>9}{'at 256 px':>11}{'fp32 MB':>9}" + "".join(
        latencies
    )


def row_text(row):
    """Return a measured row, with its name at "model", as one line of text."""
    line = f"{row['model']:<22}{row['params_m']:>9.2f}{row['macs_g']:>9.3f}{row['macs_g_256px']:>11.3f}"
    return line + f"{row['checkpoint_mb']:>9.1f}" + "".join(f"{ms:>19.2f}" for ms in row["latency_ms"].values())
