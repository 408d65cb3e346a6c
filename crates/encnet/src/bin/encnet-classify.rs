//! The program; see `encnet-classify --help`.

fn main() -> std::process::ExitCode {
    vision_train::cli::main::<encnet::classify::ClassifyRecipe>()
}
