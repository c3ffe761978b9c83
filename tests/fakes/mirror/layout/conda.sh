# Defines the shell function that activates environments.
conda() {
    "${CONDA_EXE:?conda is not set up}" "$@"
}
