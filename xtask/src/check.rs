pub(crate) fn all() -> anyhow::Result<std::process::ExitCode> {
    todo!()
}
