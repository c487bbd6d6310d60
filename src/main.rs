use std::process::ExitCode;

// Gives memory back soon after a state or an image is done with (how soon: .cargo/config.toml). The system's allocator
// keeps an arena for each thread and holds twice what is in use.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    afterimage::cli::main()
}
