//! Programs that tests need and a machine may lack: compilers, valgrind. A test whose tool is absent says so where
//! it is seen, instead of passing silently; with `MDR_REQUIRE_TOOLS` set (as `make test` does, after installing
//! them) it fails.

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output};

/// Whether `tool` runs here; if not, `what` is reported as skipped.
pub fn available(tool: &str, what: &str) -> bool {
    if Command::new(tool).arg("--version").output().is_ok_and(|output| output.status.success()) {
        return true;
    }
    assert!(std::env::var_os("MDR_REQUIRE_TOOLS").is_none(), "{what}: {tool} is missing");
    // Not `eprintln!`, which the test harness keeps to itself when a test passes.
    let _ = writeln!(std::io::stderr(), "SKIPPED {what}: {tool} is not installed");
    false
}

/// Runs a command and returns what it printed; fails with all of it where the command fails.
pub fn run(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let (stdout, stderr) = (String::from_utf8_lossy(&stdout), String::from_utf8_lossy(&stderr));
    assert!(status.success(), "{command:?}: {status}\n{stdout}\n{stderr}");
    stdout.into_owned()
}

/// libmdr as cargo has just built it for this test: beside the test executable, or in the folder above.
pub fn library() -> PathBuf {
    let name = format!("{}mdr{}", std::env::consts::DLL_PREFIX, std::env::consts::DLL_SUFFIX);
    let executable = std::env::current_exe().expect("a test knows its own path");
    let found = executable.ancestors().skip(1).take(2).map(|folder| folder.join(&name)).find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is not beside {}", executable.display()))
}

/// A file of the repository.
pub fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(path)
}
