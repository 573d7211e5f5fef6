"""Makes a wheel of a folder by the hooks of PEP 517, with what is installed: there is no network. job.json says how."""

import importlib
import json
import os
import shutil
import sys

home = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(home, "job.json")) as f:
    job = json.load(f)
source = os.path.join(home, "source")
out = os.path.join(home, "out")
shutil.copytree(job["source"], source, copy_function=shutil.copyfile)
os.mkdir(out)
os.chdir(source)
sys.path[:0] = [os.path.join(source, path) for path in job["path"]]
name, _, attributes = job["backend"].partition(":")
backend = importlib.import_module(name)
for attribute in filter(None, attributes.split(".")):
    backend = getattr(backend, attribute)
requires = getattr(backend, "get_requires_for_build_wheel", list)()
missing = [r for r in requires if r not in job["installed"]]
result = {"requires": missing} if missing else {"wheel": backend.build_wheel(out)}
with open(os.path.join(home, "result.json"), "w") as f:
    json.dump(result, f)
