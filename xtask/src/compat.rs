#[derive(Debug, clap::Args)]
pub(crate) struct CompatArgs {}
pub(crate) fn check(_: &CompatArgs) -> anyhow::Result<std::process::ExitCode> {
    todo!()
}
