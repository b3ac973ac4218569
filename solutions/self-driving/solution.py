"""Tactical decisions on a simulated motorway: a network that learned what looking ahead misses, against a careful rule."""

import json
import logging
from dataclasses import dataclass
from typing import Any

import ahead
import generator
import numpy as np
import pandas as pd
import rules
import torch
from generator import ACTIONS, SEEN, Drive, Policy
from kit import Study, Trial, checks, evidence, plots
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure

CRASH = 5.0
"""What a crash costs while it learns, beside the rest of the drive; tests have the road's own reward."""


def ingest(study: Study) -> None:
    """Where each test drive begins. The drives themselves are simulated while they are driven."""
    frame = generator.starts(generator.SIZES[study.size], len(study.seeds))
    study.source_frame("starts", frame)
    study.write("road.starts", frame)


def train(study: Study, seed: int) -> Trial:
    """Each seed learns on traffic of its own, and is tested on drives that no training drive had the traffic of."""
    size = generator.SIZES[study.size]
    tests = [generator.test_seed(seed, n) for n in range(size.drives)]
    learned, seen_in_training = learn(study, seed, size, tests if study.plant == "leak" else None)
    if seed == 1:
        study.leakage(checks.overlap(seen_in_training, tests, what="drives"))
        study.fault(
            "learned on a test drive", checks.overlap([*seen_in_training, tests[0]], tests, what="drives")
        )
        known = set(study.read("road.starts", ["drive"]).drive)
        study.leakage(
            {
                "name": "drives are the declared ones",
                "passed": set(tests) <= known,
                "said": f"{len(set(tests) & known)} of {len(tests)} test drives begin as the source says",
            }
        )
    env = generator.world()
    policies: dict[str, Policy] = {
        "candidate": learned.decide, "baseline": rules.careful, "slow": rules.slow,
    }  # fmt: skip
    drives = {name: [generator.drive(env, n, policy) for n in tests] for name, policy in policies.items()}
    oracle = generator.foreseeing(env, rules.careful)
    drives["oracle"] = [generator.drive(env, n, oracle) for n in tests[: size.known]]
    study.say(
        "; ".join(
            f"{name}: reward {_mean(found, 'reward'):.2f}, crashed {np.mean([d.crashed for d in found]):.0%}"
            for name, found in drives.items()
        )
    )
    told = {name: _measures(found, size.known) for name, found in drives.items()}
    return Trial(
        told["candidate"],
        told["baseline"],
        {"reward_known": told["oracle"]["reward_known"]},
        keep=(learned, drives, told["slow"]),
    )


def evaluate(study: Study, trials: list[Trial]) -> tuple[Any, Any]:
    every: dict[str, list[Drive]] = {
        name: [d for t in trials for d in t.keep[1][name]] for name in ("candidate", "baseline", "slow", "oracle")
    }  # fmt: skip
    for name in ("reward", "crashed", "speed"):
        study.number(f"slow_{name}", [t.keep[2][name] for t in trials])
    _no_straw_man(study, every["baseline"])
    study.subgroups(
        [
            evidence.subgroup("traffic", label, sum(not d.crashed for d in part), len(part), measure="without a crash")
            for label, part in _by_traffic(every["candidate"])
        ]
    )  # fmt: skip
    study.table(
        "Together: a policy that never moves is safe, too",
        ["policy", "drives", "reward, of 30", "crashed", "speed (m/s)", "changes of lane a drive"],
        [
            [label, len(found), _mean(found, "reward"), float(np.mean([d.crashed for d in found])),
             float(np.mean([np.mean(d.speeds) for d in found])),
             float(np.mean([sum(a in (generator.LEFT, generator.RIGHT) for a in d.actions) for d in found]))]
            for label, found in (("learned", every["candidate"]), ("careful rule", every["baseline"]),
                                 ("always slow", every["slow"]), ("oracle", every["oracle"]))
        ],
        badge="generated",
    )  # fmt: skip
    first = trials[0].keep[0]
    study.plot(
        "drive",
        "One drive, as it was driven",
        animated(generator.test_seed(1, 0), {"learned": first.decide, "careful rule": rules.careful}),
        caption="Moves: green is one's own car, seen from above; the same traffic twice. Simulation only.",
        badge="generated",
        picture=True,
    )
    study.plot(
        "rewards",
        "Reward of every drive, from the worst to the best",
        plots.lines(
            [
                (label, np.linspace(0, 1, len(every[name])), np.sort([d.reward for d in every[name]]))
                for label, name in (("learned", "candidate"), ("careful rule", "baseline"),
                                    ("always slow", "slow"), ("oracle", "oracle"))
            ],
            x="share of drives", y="reward, of 30", y_range=(0, 30),
        ),
        badge="generated",
    )  # fmt: skip
    study.plot(
        "learning",
        "Reward of the drives that it learned from",
        plots.lines(
            [(f"seed {i}", *_smooth(t.keep[0].history)) for i, t in enumerate(trials, 1)],
            x="drive", y="reward, of 30",
        ),
        badge="generated",
    )  # fmt: skip
    best = max(trials, key=lambda t: t.candidate["reward"]) if study.tiny else trials[0]
    return Decider(best.keep[0]), Decider(None)


def _mean(drives: list[Drive], what: str) -> float:
    return float(np.mean([getattr(d, what) for d in drives]))


def _measures(drives: list[Drive], known: int) -> dict[str, float]:
    return {
        "reward": _mean(drives, "reward"),
        "crashed": float(np.mean([d.crashed for d in drives])),
        "speed": float(np.mean([np.mean(d.speeds) for d in drives])),
        "reward_known": _mean(drives[:known], "reward"),
    }


def _no_straw_man(study: Study, drives: list[Drive]) -> None:
    """The rule against its own decisions dealt out at random: does it fit what is seen to what is done?

    Driving anew each time would take minutes; what is looked at is whether it slows down where there is little room.
    """
    seen = np.concatenate([d.seen for d in drives])
    actions = np.concatenate([d.actions for d in drives])
    room = np.array([_room_ahead(one) for one in seen])

    def fits(room: Any, actions: Any) -> float:
        slower = actions == generator.SLOWER
        if not slower.any() or slower.all():
            return float("-inf")
        return float(room[~slower].mean() - room[slower].mean())

    study.baseline_knows_something(fits, room, actions, better="higher")


def _room_ahead(seen: Any) -> float:
    own, others = rules.metres(seen)
    return rules.gap(others, own, rules.lane_of(own[1]))


def _by_traffic(drives: list[Drive]) -> list[tuple[str, list[Drive]]]:
    """By how near the next car ahead in one's own lane is at the start."""
    room = np.array([_room_ahead(d.seen[0]) for d in drives])
    middle = float(np.median(room))
    return [
        ("little room at the start", [d for d, r in zip(drives, room, strict=True) if r <= middle]),
        ("more room at the start", [d for d, r in zip(drives, room, strict=True) if r > middle]),
    ]


def _smooth(values: list[float]) -> tuple[Any, Any]:
    width = max(1, len(values) // 25)
    kept = np.convolve(values, np.ones(width) / width, mode="valid")
    return np.arange(len(kept)) + width, kept


# -- learning ----------------------------------------------------------------------------------------------


@dataclass
class Learned:
    """The network's weights as plain arrays, and the reward of each drive that it learned from."""

    layers: list[tuple[Any, Any]]
    history: list[float]

    def values(self, looks: Any) -> Any:
        """What each decision is worth, of what `ahead.looks` gives."""
        x = looks
        for number, (weight, bias) in enumerate(self.layers):
            x = x @ weight.T + bias
            if number < len(self.layers) - 1:
                x = np.maximum(x, 0)
        return x

    def weighed(self, seen: Any) -> tuple[int, Any]:
        """The decision, and what each is worth."""
        view = _View(seen)
        values = self.values(view.looks)
        return ahead.shielded(view.worth, view.touches, int(np.argmax(values))), values

    def decide(self, seen: Any) -> int:
        return self.weighed(seen)[0]


class _View:
    """An observation, and what was imagined from it."""

    def __init__(self, seen: Any) -> None:
        own, others = rules.metres(seen)
        self.worth, self.touches = ahead.imagined(own, others)
        self.looks = ahead.looks(own, others, self.worth, self.touches)


class _History(BaseCallback):  # type: ignore[misc]
    """Keeps the reward of every finished drive, and of the second half of learning the network that drove best by then.

    Q-learning's last network is not its best; which is, is told by drives of training traffic that nothing is learned from.
    """

    def __init__(self, study: Study, steps: int, chosen: list[int]) -> None:
        super().__init__()
        self.study, self.rewards, self.total = study, [], 0.0
        self.steps, self.chosen, self.road = steps, chosen, generator.world()
        self.layers: list[tuple[Any, Any]] = []
        self.best = -np.inf

    def _on_step(self) -> bool:
        self.total += float(self.locals["rewards"][0])
        if self.locals["dones"][0]:
            self.rewards.append(self.total)
            self.total = 0.0
        if self.num_timesteps * 2 >= self.steps and self.num_timesteps % (self.steps // 10) == 0:
            self._look()
        return True

    def _look(self) -> None:
        linear = [m for m in self.model.q_net.q_net if isinstance(m, torch.nn.Linear)]
        layers = [(m.weight.detach().numpy().copy(), m.bias.detach().numpy().copy()) for m in linear]
        driver = Learned(layers, [])
        drives = [generator.drive(self.road, number, driver.decide) for number in self.chosen]
        worth = _mean(drives, "reward") - CRASH * float(np.mean([d.crashed for d in drives]))
        self.study.say(f"  after {self.num_timesteps} seconds: worth {worth:.2f}")
        if worth > self.best:
            self.best, self.layers = worth, layers


class _Numbered(generator.gymnasium.Wrapper):  # type: ignore[misc]
    """Draws each training drive's traffic by a number of its own, and remembers it."""

    def __init__(self, env: Any, seed: int, forced: list[int] | None) -> None:
        super().__init__(env)
        self.seed, self.forced, self.numbers, self.view = seed, forced, [], None
        self.observation_space = generator.gymnasium.spaces.Box(-20, 20, (ahead.LOOKS,), np.float32)

    def reset(self, **_: Any) -> Any:
        count = len(self.numbers)
        number = (
            self.forced[count % len(self.forced)]
            if self.forced
            else generator.training_seed(self.seed, count)
        )
        self.numbers.append(number)
        seen, more = self.env.reset(seed=number)
        self.view = _View(seen)
        return self.view.looks, more

    def step(self, action: Any) -> Any:
        allowed = ahead.shielded(self.view.worth, self.view.touches, int(action))
        seen, reward, ended, cut, more = self.env.step(allowed)
        self.view = _View(seen)
        return self.view.looks, reward - CRASH * ended, ended, cut, more


def learn(
    study: Study, seed: int, size: generator.Size, forced: list[int] | None
) -> tuple[Learned, list[int]]:
    """Deep Q-learning (Mnih et al., 2015) from memories of which the first are drives by looking ahead alone."""
    torch.set_num_threads(1)
    logging.getLogger("stable_baselines3").setLevel(logging.ERROR)
    env = _Numbered(generator.world(), seed, forced)
    model = DQN(
        "MlpPolicy",
        env,
        policy_kwargs={"net_arch": [64, 64]},
        learning_rate=1e-3,
        buffer_size=size.steps + size.shown * generator.SECONDS,
        learning_starts=0,
        batch_size=128,
        gamma=0.9,
        target_update_interval=100,
        exploration_fraction=0.5,
        exploration_initial_eps=0.2,
        exploration_final_eps=0.02,
        seed=seed,
        device="cpu",
    )
    rng = np.random.default_rng(seed)
    for _ in range(size.shown):
        _remember(model.replay_buffer, env, rng)
    model.set_logger(configure(None, []))
    model.train(gradient_steps=10 if study.tiny else 2000, batch_size=128)
    chosen = [generator.training_seed(seed, 400_000 + number) for number in range(size.chosen)]
    history = _History(study, size.steps, chosen)
    model.learn(size.steps, callback=history, reset_num_timesteps=True)
    return Learned(history.layers, history.rewards), [*env.numbers, *chosen]


def _remember(memory: Any, env: Any, rng: Any) -> None:
    """Drive once by looking ahead, but for one decision in seven, and keep what was seen, done and earned."""
    seen, _ = env.reset()
    over = False
    while not over:
        best = int(np.argmax(env.view.worth))
        action = best if rng.random() < 0.85 else int(rng.integers(len(ACTIONS)))
        after, reward, ended, cut, _ = env.step(action)
        over = ended or cut
        more = [{"TimeLimit.truncated": bool(cut and not ended)}]
        memory.add(seen[None], after[None], np.array([[action]]), np.array([reward]), np.array([over]), more)
        seen = after


# -- showing and serving -----------------------------------------------------------------------------------


def animated(number: int, policies: dict[str, Policy]) -> str:
    """The same traffic driven by each policy, from above, one's own car in the middle; SVG that moves by itself."""
    across, scale = 160.0, 3.5
    rows, body = [], []
    for name, policy in policies.items():
        env = generator.world()
        seen, _ = env.reset(seed=number)
        shots = [_shot(env)]
        over = False
        while not over:
            seen, _, ended, cut, _ = env.step(int(policy(seen)))
            shots.append(_shot(env))
            over = ended or cut
        rows.append((name, shots, bool(env.unwrapped.vehicle.crashed)))
    longest = max(len(shots) for _, shots, _ in rows)
    for row, (name, shots, crashed) in enumerate(rows):
        top = 24 + row * 84
        said = f"{name}: {'crashed after' if crashed else 'drove'} {len(shots) - 1} s"
        body.append(f'<text x="6" y="{top - 6}">{said}</text>')
        body.append(f'<rect x="0" y="{top}" width="560" height="48" fill="#8a8c84" opacity="0.25"/>')
        body += [
            f'<line x1="0" y1="{top + 16 * line}" x2="560" y2="{top + 16 * line}" class="axis" '
            'stroke-dasharray="12 10"/>'
            for line in (1, 2)
        ]
        for car in range(len(shots[0])):
            own = car == 0
            xs = [np.clip((s[car][0] - s[0][0]) * scale + 200, -60, 620) for s in shots]
            ys = [top + 8 + s[car][1] * 4 for s in shots]
            xs += [xs[-1]] * (longest - len(xs))
            ys += [ys[-1]] * (longest - len(ys))
            if not own and (min(xs) > 570 or max(xs) < -30):
                continue
            path = ";".join(f"{x - 9:.0f} {y - 3.5:.1f}" for x, y in zip(xs, ys, strict=True))
            body.append(
                f'<rect width="18" height="7" rx="2" fill="{plots.COLOURS[0] if own else "#7a7c75"}" '
                f'transform="translate({xs[0] - 9:.0f} {ys[0] - 3.5:.1f})">'
                f'<animateTransform attributeName="transform" type="translate" dur="{longest / 2:.1f}s" '
                f'repeatCount="indefinite" values="{path}"/></rect>'
            )
    height = 24 + 84 * len(rows)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 {height}" width="560" height="{height}">'
        + plots.STYLE
        + "".join(body)
        + f"<desc>{across:.0f} metres of road</desc></svg>"
    )


def _shot(env: Any) -> list[tuple[float, float]]:
    road = env.unwrapped
    own = road.vehicle
    cars = [own, *(v for v in road.road.vehicles if v is not own)]
    return [(float(v.position[0]), float(v.position[1])) for v in cars]


@dataclass
class Decider:
    """Takes `observation`: a list (JSON) of up to seven rows [there, x, y, vx, vy], one's own car first.

    In metres and metres a second; other cars' from one's own car. Gives the decision and what each would be worth.
    """

    learned: Learned | None

    def answer(self, frame: pd.DataFrame) -> pd.DataFrame:
        rows = []
        for text in frame.observation:
            seen = observation(str(text))
            if self.learned is None:
                action, worth = rules.careful(seen), {}
            else:
                action, values = self.learned.weighed(seen)
                worth = {name: round(float(v), 4) for name, v in zip(ACTIONS, values, strict=True)}
            rows.append({"action": ACTIONS[action], "worth": json.dumps(worth)})
        return pd.DataFrame(rows)


def observation(text: str) -> Any:
    """As the simulation gives it: seven rows, in parts of `generator.REACH`. Raises `ValueError` for anything else."""
    try:
        rows = np.asarray(json.loads(text), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise ValueError("`observation` is no list of rows of numbers.") from error
    if rows.ndim != 2 or rows.shape[1] != 5 or not 1 <= len(rows) <= SEEN or not np.isfinite(rows).all():
        raise ValueError(f"`observation` has 1 to {SEEN} rows of [there, x, y, vx, vy], one's own car first.")
    kept = np.zeros((SEEN, 5), dtype=np.float32)
    kept[: len(rows)] = rows
    kept[:, 1:] = np.clip(kept[:, 1:] / np.array(list(generator.REACH.values()), dtype=np.float32), -1, 1)
    kept[0, 1] = 0.0
    return kept
