"""A plugin of pytest: nbval's kernels are those of a run (lib/operate/kernels.py).

    .venv/bin/python -m pytest --nbval -p tests.support.forked_kernels notebooks

They are forks of a process that has imported the packages; each other one imports them itself.
"""

from jupyter_client.manager import KernelManager

from lib.operate import kernels


class Kernels(KernelManager):
    """For nbval, which needs a manager that blocks."""

    def __init__(self, **options):
        super().__init__(**options)
        self.provisioner = kernels.Kernels().provisioner
        self.provisioner.parent = self
        self.kernel_spec.argv.append("--IPKernelApp.log_level=CRITICAL")  # warns about loopback


def pytest_configure():
    # Not before lib, which keeps jsonschema from building a grammar for a second.
    import nbval.kernel

    if kernels.FORKS:
        kernels.warm()
        nbval.kernel.KernelManager = Kernels
