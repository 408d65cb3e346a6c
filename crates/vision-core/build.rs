//! Compiles the CUDA kernels beside the operations to PTX, if the feature `cuda` asks for them.

fn main() {
    #[cfg(feature = "cuda")]
    if let Err(problem) = kernels::build() {
        // A build script has no other way to say that it failed.
        eprintln!("the CUDA kernels did not compile: {problem}");
        std::process::exit(1);
    }
    println!("cargo:rerun-if-changed=build.rs");
}

#[cfg(feature = "cuda")]
mod kernels {
    use std::error::Error;
    use std::path::PathBuf;

    /// Every `.cu` below `src` becomes a constant named after the file in `$OUT_DIR/kernels.rs`.
    pub(super) fn build() -> Result<(), Box<dyn Error>> {
        // New files count too.
        println!("cargo:rerun-if-changed=src/ops");
        println!("cargo:rerun-if-changed=src/boxes");
        #[allow(clippy::disallowed_methods, reason = "how cargo tells a build script its folder")]
        let out = PathBuf::from(std::env::var("OUT_DIR")?);
        let bindings = cudaforge::KernelBuilder::new()
            .source_glob("src/**/*.cu")
            .watch(vec!["src/cuda/kernel.cuh", "src/cuda/corners.cuh", "src/cuda/bins.cuh"])
            .include_path("src/cuda")
            .arg("-std=c++17")
            .arg("-O3")
            .build_ptx()?;
        bindings.write(out.join("kernels.rs"))?;
        Ok(())
    }
}
