"""NVIDIA's four container packages, played: their names, their relations, and programs that behave enough."""

from __future__ import annotations

from tests.fakes.mirror.apt_repo import Deb, Script

__all__ = ["NAMES", "toolkit_debs"]

NAMES = (
    "nvidia-container-toolkit",
    "nvidia-container-toolkit-base",
    "libnvidia-container-tools",
    "libnvidia-container1",
)
# Writes what the real one writes as far as anybody reads it; fails as that does without a loaded driver.
CTK = """#!/bin/sh
set -eu
case "$*" in
  --version) echo "NVIDIA Container Toolkit CLI version @VERSION@" ;;
  "cdi generate --output="*)
    [ -e /sys/module/nvidia/version ] || {
      echo 'level=error msg="failed to generate CDI spec: failed to initialize NVML: Driver Not Loaded"' >&2
      exit 1
    }
    driver=$(cat /sys/module/nvidia/version)
    file=${3#--output=}
    mkdir -p "$(dirname "$file")"
    printf 'cdiVersion: 0.5.0\\nkind: nvidia.com/gpu\\ndevices:\\n- name: all\\n' >"$file"
    printf 'containerEdits:\\n  mounts:\\n  - hostPath: /usr/lib/libcuda.so.%s\\n' "$driver" >>"$file"
    ;;
  "system create-dev-char-symlinks --create-all") echo "$*" >>/var/log/nvidia-ctk.log ;;
  *) echo "nvidia-ctk: unknown: $*" >&2; exit 1 ;;
esac
"""
CONFIG = """#accept-nvidia-visible-devices-as-volume-mounts = false
#accept-nvidia-visible-devices-envvar-when-unprivileged = true
disable-require = false
supported-driver-capabilities = "compat32,compute,display,graphics,ngx,utility,video"

[nvidia-container-cli]
environment = []
#no-cgroups = false
load-kmods = true

[nvidia-container-runtime]
log-level = "info"
mode = "auto"
"""
POSTINST = "#!/bin/sh\n[ ! -e /root/slow-postinst ] || sleep 60\n"  # slow on demand: to be killed meanwhile
RUNTIME = '#!/bin/sh\nexec runc "$@"\n'
SERVICE = """[Unit]
Description=Refresh NVIDIA CDI specification file
ConditionPathExists=/usr/bin/nvidia-ctk
ConditionPathExists=/sys/module/nvidia/version

[Service]
Type=oneshot
ExecStart=/usr/bin/nvidia-ctk cdi generate --output=/var/run/cdi/nvidia.yaml

[Install]
WantedBy=multi-user.target
"""
PATH_UNIT = """[Unit]
Description=Trigger CDI refresh on NVIDIA driver install / uninstall events

[Path]
PathChanged=/lib/modules/%v/modules.dep
PathChanged=/usr/bin/nvidia-ctk

[Install]
WantedBy=multi-user.target
"""


def toolkit_debs(version: str, *, refresh: bool = True) -> list[Deb]:
    """The four packages of a version such as ``1.19.1-1``. ``refresh``: with the units that 1.18 brought."""
    units = {
        "/usr/lib/systemd/system/nvidia-cdi-refresh.service": SERVICE,
        "/usr/lib/systemd/system/nvidia-cdi-refresh.path": PATH_UNIT,
    }
    toolkit, base, tools, library = NAMES
    return [
        Deb(
            toolkit,
            version,
            "amd64",
            {"Depends": f"{base} (= {version}), {tools} (= {version})"},
            {"/usr/bin/nvidia-container-runtime-hook": Script("#!/bin/sh\n")},
        ),
        Deb(
            base,
            version,
            "amd64",
            files={
                "/usr/bin/nvidia-ctk": Script(CTK.replace("@VERSION@", version.split("-")[0])),
                "/usr/bin/nvidia-container-runtime": Script(RUNTIME),
                "/etc/nvidia-container-runtime/config.toml": CONFIG,
                **(units if refresh else {}),
            },
            scripts={"conffiles": "/etc/nvidia-container-runtime/config.toml\n", "postinst": POSTINST},
        ),
        Deb(tools, version, "amd64", {"Depends": f"{library} (= {version})"}),
        Deb(library, version, "amd64"),
    ]
