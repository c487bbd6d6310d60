use std::process::ExitCode;

// Gives memory back when a state or an image is done with: what glibc's allocator keeps in an arena per thread was
// more than half of the peak.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    afterimage::cli::main()
}
