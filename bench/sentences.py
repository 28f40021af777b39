"""The sentences of the pages that state a number, with a field for each; and numbers that are no measurements.

A field is {NAME.path:format}: a value of bench/results/stated/NAME.json, of the studies "family" and "rl", or one that
`bench.stated` counts or derives. To state another number, change the page, add its sentence here, and store its value.
"""

from __future__ import annotations

FRONT, BENCH = "README.md", "bench/README.md"
ORACLE, VECTORS = "tinymaml/oracle/README.md", "tinymaml/oracle/vectors/README.md"

SENTENCES = {
    FRONT: [
        "mean squared error on {sinusoid.tasks} test tasks, after {sinusoid.iteration} meta-iterations",
        "\n 0 {sinusoid.mean.0:.3f} ± {sinusoid.ci95.0:.3f}\n",
        "\n 1 {sinusoid.mean.1:.3f} ± {sinusoid.ci95.1:.3f}\n",
        "\n 10 {sinusoid.mean.10:.3f} ± {sinusoid.ci95.10:.3f} (the paper",
        "in {alarms.runs:,} runs of {alarms.implementations} implementations, and it named {matrix.right:,}"
        " of {matrix.ways:,} planted",
        "eight workloads in float32, from {counted.sine} sine waves",
        "it takes {derived.ratios.0:.2f} to {derived.ratios.1:.2f} of the time",
    ],
    BENCH: [
        "meta-gradients were sampled ({counted.processes:,} per cell)",
        "Finn et al. (2017): {counted.goals} tasks of {counted.acting.trajectories} trajectories of"
        " {counted.acting.horizon} steps per meta-gradient, a {counted.layers} ReLU"
        " policy, α = {counted.acting.inner_lr}, reward",
        "the same {counted.test_goals} test goals, with {counted.acting.trajectories} new trajectories per step",
        "a sum over all {counted.all_steps:,} steps of a task",
        "and with {counted.goals} tasks its noise",
        "the sine waves have α = {family.maml.options.inner_lr} (0.01 there), {family.maml.options.queries} query"
        " points (5)",
        "({counted.tests.stats} are of `scipy.stats`, {counted.tests.others} of `signal`",
        "measures W1 … W8 (`bench/workloads.py`), from {counted.sine} sine waves",
        "its Hessian varies {derived.dice_over_lvc:.0f} times more than LVC's",
        "{throughput.steps:,} steps of the environment with one inner step in between",
        "it took {throughput.ratio.meta-iteration:.2f} of PyTorch's time ({throughput.ratio.collecting:.2f} for"
        " collecting"
        " alone): {throughput.seconds.tinymaml:.2f} s, and {throughput.steps per second.tinymaml:,.0f} steps",
        "{family.maml.options.iterations:,} meta-iterations of {family.maml.options.tasks} tasks, with seeds 0, 1, 2",
        "(up to {derived.diverged} of {family.meta-sgd.tasks} for Meta-SGD)",
        "**{sinusoid.mean.1:.2f} / {sinusoid.mean.5:.2f} / {sinusoid.mean.10:.2f}** ±"
        " {sinusoid.ci95.1:.2f} / {sinusoid.ci95.5:.2f} / {sinusoid.ci95.10:.2f} ³",
        "**{omniglot.1-shot.mean:.1f} ± {omniglot.1-shot.ci95:.1f} %** | `tinymaml train omniglot --data …`"
        " ({omniglot.1-shot.minutes} min)",
        "{omniglot.support.mean:.1f} ± {omniglot.support.ci95:.1f} %, {omniglot.running.mean:.1f} ±"
        " {omniglot.running.ci95:.1f} % | the same with `--statistics support`",
        "**{omniglot.5-shot.mean:.1f} ± {omniglot.5-shot.ci95:.1f} %** | the same with `--shots 5`"
        " ({omniglot.5-shot.minutes} min ⁴)",
        "**{omniglot.longer.mean:.1f} ± {omniglot.longer.ci95:.1f} %** | the same with"
        " `--rotations --iterations 1500 --decay 500` ({omniglot.longer.minutes} min ⁴)",
        "{omniglot.longer.validation.0} / {omniglot.longer.validation.1} / {omniglot.longer.validation.2} /"
        " {omniglot.longer.validation.3} / {omniglot.longer.validation.4} %, still rising",
        "give {derived.seeds.0:.2f} … {derived.seeds.1:.2f} after one step",
        "rows are then {omniglot.1-shot.uncompiled}, {omniglot.5-shot.uncompiled} and {omniglot.longer.uncompiled} %",
        "takes {reference.W5.float32.contenders.reference.ratio:.1f} × as long as PyTorch's loop with `create_graph`"
        " for the"
        " convolutional network above, and {reference.W1.float32.contenders.reference.ratio:.1f} × for the sine"
        " network",
        "at most {counted.cache_gib} GiB, or",
        "{autograd.its NumPy tests.passed} of its {autograd.its NumPy tests.run} NumPy tests pass"
        " ({autograd.its NumPy tests.skipped} more need xarray), {autograd.its SciPy tests.passed} of its"
        " {autograd.its SciPy tests.run} SciPy tests",
        "and {autograd.its own interface.passed} of the {autograd.its own interface.run} tests of its own interface",
        "{derived.share.0:.0f} … {derived.share.1:.0f} % of the time of a task, at {derived.rate.0:.0f} …"
        " {derived.rate.1:.0f} GFLOP/s",
    ],
    ORACLE: [
        "{counted.blind.wrong} wrong implementations, each with its diagnosis written down first, and"
        " {counted.blind.right} right ones",
        "today there are {counted.mistakes} mistakes in MAML, {counted.all_mistakes} with those of the other"
        " algorithms,"
        " and {counted.cases} core cases",
    ],
    VECTORS: ["{counted.cases} small cases"],
}

# Regular expressions of numbers that are names, settings, conventions, citations: these no command can give otherwise.
NAMES = [
    r"W\d", r"(float|complex)\d+", r"\d+-way( \d+-shot)?", r"\d+-shot", r"2-D", r"[Ss]eeds? (are )?0(, 1(,|"
    r" and) 2)?",
    r"95 %", r"\(?\d of \d\)", r"AVX-?\d+", r"x86-64", r"Zen 4", r"SHA-256", r"C\+\+\d+", r"MAML\+\+", r"K = 1 … 5",
    r"et al\.(,| \()\s?\d{4}", r"Levine, 2017",
]  # fmt: skip
SETTINGS = {
    FRONT: [
        r"∇𝓛\(θ\) = .*", r"python3 -m venv .*", r"pytest -n 2", r"the paper: 0\.67 after 1 step, 0\.35 after 10",
    ],
    BENCH: [
        r"same 600 test tasks", r"does not hold 0", r"2 states, 2 actions and horizon 3", r"decays by 1/episodes",
        r"\[−1, 1\]", r"Adam and 100 meta-iterations", r"at α/2", r"−0\.5 on average"
        r" \(`tests/test_rl_environments\.py`\)",
        r"over 100 steps it varies", r"error on 600 test tasks", r"the 1 and the 5 steps that they train",
        r"cited from memory, is about 0\.19 after 1 step", r"shared 2-core", r"on 600 test tasks; ± is 1\.96 σ/√600",
        r"for Omniglot after 10 steps", r"after 1 / 5 / 10 steps \| 0\.67 / 0\.38 / 0\.35 ¹",
        r"300 meta-iterations \| (90\.3|95\.8) % ²", r"1,500 meta-iterations", r"after 70,000 iterations",
        r"with 5 inner steps", r"MAML's own 98\.7 %", r"took 60,000 iterations", r"after 100 / 300 / 500 / 1,000 /"
        r" 1,500",
        r"\(0\.01 there\)", r"query points \(5\)", r"its 0\.4 would be 2\.0", r"to 1e-12 of", r"exit code 1",
        r"first call after 200 s", r"less than 8 ε", r"90th percentile",
    ],
    ORACLE: [
        r"exit code 0", r"ReLU′\(0\)", r"The exit code is 1", r"standard error\), 2 for", r"ε = 2⁻¹⁰", r"the slope 0 at"
        r" 0",
        r"images of 4 × 5", r"at 200 digits",
    ],
    VECTORS: [],
    "tinymaml/runs/README.md": [
        r"600 tasks never trained on, after 0 … 10 steps", r"--(shots|inner-lr|inner-steps|tasks|steps) [\d.]+", r"16"
        r" MB",
        r"after 0 … 5 steps",
    ],
    "bench/oracle/clients/README.md": [],
}  # fmt: skip
