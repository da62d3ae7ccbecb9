"""What the README shows is true: line numbers, the table of knobs, pictures, and every snippet."""

import ast
import importlib
import json
import re
import sys

import discrete_A3C
import pytest
import torch
import torch.multiprocessing as mp

from conftest import ROOT, episodes

README = (ROOT / "README.md").read_text()

# Of Algorithm S3: what stands in the first and the last line of each place that the table names.
PLACES = {
    "1, 5": [
        ("            buffer_s, buffer_a", "= [], [], []"),
        ("        buffer_s", "= [], [], []"),
    ],
    "2, 20": [("while self.g_ep.value < MAX_EP", "self.res_queue, self.name")],
    "3": [("for lp, _ in pairs:", "lp.grad = None")],
    "4": [("lnet.load_state_dict(", "gnet.state_dict())"), ("with torch.no_grad", "lp.copy_(gp)")],
    "6": [("s, _ = env.reset()", "s, _ = env.reset()"), (" s = s_", " s = s_")],
    "7, 12": [("while True:", "len(buffer_s) >= UPDATE_GLOBAL_ITER")],
    "8": [("with torch.no_grad", "random.choices"), ("a = lnet.choose_action", "env.step(a)")],
    "9, 10": [("s_, r, terminated, truncated, _ = env.step(a)", "buffer_r.append")],
    "11": [("with global_ep.get_lock():", "global_ep.value += 1")],
    "13": [("v_s_ = 0.0", "lnet(v_wrap(np.asarray(s_)[None]))[-1].item()")],
    "14, 15": [("for r in reversed(br):", "buffer_v_target.insert(0, v_s_)")],
    "16": [("log_pi = F.log_softmax", "a_loss = ")],
    "17": [("c_loss = F.mse_loss", "c_loss = F.mse_loss")],
    "19": [("for lp, gp in pairs:", "opt.step()")],
}


def function(file, name):
    """Return the first and the last line of a function, such as "Worker.run"."""
    body = ast.parse((ROOT / file).read_text()).body
    for part in name.split("."):
        node = next(node for node in body if getattr(node, "name", None) == part)
        body = node.body
    return node.lineno, node.end_lineno


def test_the_table_of_algorithm_s3_names_the_right_lines():
    rows = re.findall(r"^\| ([\d, ]+): .* \| .* \| (`.*) \|$", README, re.MULTILINE)
    assert [number for number, _ in rows] == list(PLACES)
    for number, cell in rows:
        places = re.findall(r"`([\w.]+)` \[(\w+\.py):(\d+)(?:-(\d+))?\]\((\S+?)\)", cell)
        assert len(places) == len(PLACES[number])
        for (name, file, first, last, link), texts in zip(places, PLACES[number]):
            assert link == f"{file}#L{first}" + (f"-L{last}" if last else "")
            first, last = int(first), int(last or first)
            start, end = function(file, name)
            assert start <= first <= last <= end, (number, start, end)
            lines = (ROOT / file).read_text().splitlines()
            assert texts[0] in lines[first - 1] and texts[1] in lines[last - 1], number


@pytest.fixture
def knobs(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "results")
    method = mp.get_start_method()
    yield importlib.import_module("knobs")
    mp.set_start_method(method, force=True)
    del sys.modules["knobs"]


def test_the_table_of_the_knobs_is_what_was_measured(knobs):
    assert knobs.table(json.loads(knobs.DATA.read_text())) in README


def test_knobs_remakes_table_and_figure(knobs, monkeypatch, tmp_path, capsys):
    mp.set_start_method("spawn", force=True)  # as where fork is not the default
    for name in (*knobs.KNOBS, "N_WORKERS", "record"):
        monkeypatch.setattr(knobs.a3c, name, getattr(knobs.a3c, name))  # put back afterwards
    knobs.SHIPPED, knobs.SEEDS = {**knobs.SHIPPED, "MAX_EP": 110}, range(2)
    knobs.ROWS = {row: knobs.ROWS[row] for row in ("as shipped, 2 workers", "`N_WORKERS = 1`")}
    knobs.DATA, knobs.FIGURE = tmp_path / "knobs.json", tmp_path / "knobs.png"
    knobs.main()
    printed = capsys.readouterr().out
    assert printed.count("0 of 2") == len(knobs.ROWS) and knobs.FIGURE.stat().st_size > 10_000
    knobs.main()  # nothing is measured again
    assert "seed" not in capsys.readouterr().out
    run = json.loads(knobs.DATA.read_text())["`N_WORKERS = 1`"]["1"]
    assert len(run["curve"]) == 4 and 8 < run["moving average"] < 60 and run["solved"] is None


def test_every_picture_and_link_is_there():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("http")]
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    anchors = ["#" + re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in titles]
    for link in links:
        assert link in anchors if link.startswith("#") else (ROOT / link.split("#")[0]).is_file()
    animations = [ROOT / link for link in links if link.endswith(".gif")]
    assert len(animations) == 2 and all(path.stat().st_size < 600_000 for path in animations)


def snippets(place):
    """Return the blocks of code that begin with the comment `# place`."""
    blocks = re.findall(r"^```python\n# (.+)\n((?:.*\n)*?)```$", README, re.MULTILINE)
    found = [text for name, text in blocks if name == place]
    assert found, place
    return found


def edit(copy, script, text):
    """Edit the constants of `script` as the snippet says."""
    for line in text.splitlines():
        name = line.split(" = ")[0]
        copy.edit(script, rf"^{name} = .*$", line)


@pytest.mark.parametrize("text", snippets("discrete_A3C.py: change these constants at its top"))
def test_constants_to_edit(copy, text):
    (copy.folder / "my_env.py").write_text(snippets("my_env.py")[0])
    edit(copy, "discrete_A3C.py", text)
    run = copy.run("discrete_A3C.py", MAX_EP=2, N_WORKERS=2)
    assert run.returncode == 0, run.stderr
    assert len(episodes(run.stdout)) in (2, 3) and len(copy.saved()) == 2


@pytest.mark.parametrize("script", ["discrete_A3C.py", "continuous_A3C.py"])
def test_gymnasium(copy, script):
    (line,) = snippets("in each script (and in my_env.py), in the place of `import gym`")
    (copy.folder / "my_env.py").write_text(snippets("my_env.py")[0])
    constants = {"ENV_NAME": "my_env:Catch-v0"} if script == "discrete_A3C.py" else {}
    for name in (script, "my_env.py"):
        copy.edit(name, r"^import gym$", line.strip())
    run = copy.run(script, MAX_EP=2, **constants)
    assert run.returncode == 0 and "unmaintained" not in run.stderr, run.stderr


def image_script(copy):
    for name in ("my_env.py", "image_A3C.py"):
        (copy.folder / name).write_text(snippets(name)[0])


def test_images(copy):
    image_script(copy)
    copy.edit("image_A3C.py", ", 3000$", ", 20")
    run = copy.run("image_A3C.py")
    assert run.returncode == 0, run.stderr
    assert len(episodes(run.stdout)) >= 20 and "Greedy policy" in run.stdout
    assert copy.saved() == ["Images.png", "Images.pt"]


def test_pong(copy):
    image_script(copy)
    place = "in the place of all lines from `from my_env` to the end of class Images"
    (text,) = snippets(f"image_A3C.py, {place}")
    (copy.folder / "my_env.py").unlink()
    copy.edit("image_A3C.py", r"^from my_env(.*\n)+?\n(?=\nclass Net)", text)
    copy.edit("image_A3C.py", ", 3000$", ", 1")
    copy.edit("image_A3C.py", r"env, a3c\.SEED\)", "env, 0, max_steps=100)")
    run = copy.run("image_A3C.py")
    assert run.returncode == 0, run.stderr
    assert episodes(run.stdout) and -21 <= episodes(run.stdout)[0] <= -16


def test_watching(copy):
    (copy.folder / "watch.py").write_text(snippets("watch.py")[0])
    (copy.folder / "results").mkdir()
    weights = discrete_A3C.Net(4, 2).state_dict()
    weights["pi2.weight"], weights["pi2.bias"] = torch.zeros(2, 128), torch.tensor([0.0, 1.0])
    torch.save(weights, copy.folder / "results" / "CartPole-v0.pt")
    run = copy.run("watch.py", environ={"SDL_VIDEODRIVER": "dummy"})
    assert run.returncode == 0, run.stderr
    assert 8 <= float(run.stdout.splitlines()[-1]) <= 11  # always to the right
