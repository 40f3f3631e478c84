//! The C example of the README and its C++ twin: compiled with every warning an error, run, and run again under
//! valgrind, which finds no error and no leak.

mod common;

use common::mean3;
use common::tools::{available, library, repository, run};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles a program of `tests/c` against `mdr.h` and the library that cargo has just built.
fn compile(compiler: &str, standard: &str, source: &str, folder: &Path) -> PathBuf {
    let program = folder.join("program");
    let library = library();
    let beside = library.parent().expect("a folder");
    run(Command::new(compiler)
        .args([standard, "-g", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Wshadow", "-Wconversion", "-Werror"])
        .arg("-I")
        .arg(repository("include"))
        .arg(repository("tests/c").join(source))
        .arg("-o")
        .arg(&program)
        .arg("-L")
        .arg(beside)
        .arg(format!("-Wl,-rpath,{}", beside.display()))
        .args(["-lmdr", "-pthread"]));
    program
}

/// A command that finds the library where the program was linked. Cargo's own path leads first to the folder above,
/// where an earlier `cargo build` may have left an older one.
fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.env_remove("LD_LIBRARY_PATH");
    command
}

/// The mean that a program printed.
fn mean(printed: &str) -> f64 {
    printed.trim().rsplit(' ').next().and_then(|mean| mean.parse().ok()).unwrap_or_else(|| panic!("{printed:?}"))
}

fn works(compiler: &str, standard: &str, source: &str) {
    if !available(compiler, source) {
        return;
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    let program = compile(compiler, standard, source, folder.path());
    let model = folder.path().join("mean.onnx");
    std::fs::write(&model, mean3()).expect("a model file");

    // Stripes of 100 and 500, as many of each, plus uniform noise of 0 to 99.
    let printed = run(command(&program).arg(&model));
    assert!((mean(&printed) - 349.5).abs() < 5.0, "{printed}");

    let wrong = command(&program).arg("no/such/file.onnx").output().expect("the program runs");
    assert_eq!(wrong.status.code(), Some(1));
    let message = String::from_utf8_lossy(&wrong.stderr);
    assert!(message.starts_with("mdr: ") && message.contains("file.onnx"), "{message}");

    if available("valgrind", &format!("{source} under valgrind")) {
        let valgrind = ["--quiet", "--leak-check=full", "--error-exitcode=1"];
        let known = format!("--suppressions={}", repository("tests/c/valgrind.supp").display());
        run(command("valgrind").args(valgrind).arg(known).arg(&program).arg(&model));
    }

    // Without a file: the built-in model.
    let printed = run(&mut command(&program));
    assert!((mean(&printed) - 349.5).abs() < 20.0, "{printed}");
}

#[test]
fn c_program() {
    works("cc", "-std=c99", "restore.c");
}

#[test]
fn cpp_program() {
    works("c++", "-std=c++11", "restore.cpp");
}
