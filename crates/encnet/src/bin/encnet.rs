//! The program; see `encnet --help`.

fn main() -> std::process::ExitCode {
    vision_train::cli::main::<encnet::EncNetRecipe>()
}
