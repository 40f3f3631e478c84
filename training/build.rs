//! Lets the program find libtorch without LD_LIBRARY_PATH (an rpath to the folder that torch-sys linked against), tells
//! it where that folder is (libtorch_cuda is opened from there), and notes the commit for a model's provenance.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    for variable in ["LIBTORCH", "LIBTORCH_USE_PYTORCH", "PATH"] {
        println!("cargo:rerun-if-env-changed={variable}");
    }
    let lib = match std::env::var_os("LIBTORCH") {
        Some(folder) => Some(PathBuf::from(folder).join("lib")),
        None => python_torch_lib(),
    };
    let lib = lib.filter(|lib| lib.is_dir()).map(|lib| lib.display().to_string()).unwrap_or_default();
    if !lib.is_empty() && cfg!(unix) {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{lib}");
    }
    println!("cargo:rustc-env=MDR_TORCH_LIB={lib}");

    if let Some(log) = output(Command::new("git").args(["rev-parse", "--git-path", "logs/HEAD"])) {
        println!("cargo:rerun-if-changed={log}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    let commit = output(Command::new("git").args(["rev-parse", "HEAD"])).unwrap_or_else(|| "unknown".into());
    println!("cargo:rustc-env=MDR_COMMIT={commit}");
}

/// Where torch-sys finds the libraries under LIBTORCH_USE_PYTORCH=1.
fn python_torch_lib() -> Option<PathBuf> {
    let code = "import torch; print(torch.__path__[0])";
    output(Command::new("python3").args(["-c", code])).map(|folder| PathBuf::from(folder).join("lib"))
}

fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
