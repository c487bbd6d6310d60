use std::process::ExitCode;

fn main() -> ExitCode {
    afterimage::cli::main()
}
