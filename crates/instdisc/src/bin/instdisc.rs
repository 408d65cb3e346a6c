//! The `instdisc` program.

fn main() -> std::process::ExitCode {
    vision_train::cli::main::<instdisc::recipe::InstDiscRecipe>()
}
