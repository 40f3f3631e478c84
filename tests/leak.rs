//! Models that are loaded and freed leave no memory behind. Alone in its file, because the memory of a process is
//! that of all tests in it.
#![cfg(target_os = "linux")]

mod common;

use common::mean3;
use mdr::ffi::{MdrStatus, mdr_model_free, mdr_model_from_memory};

/// Memory of this process in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") * 1024
}

#[test]
fn loading_and_freeing_leaves_nothing() {
    let bytes = mean3();
    let cycle = || {
        let mut model = std::ptr::null_mut();
        // SAFETY: text, bytes and out-parameter live during the call; the model is freed once.
        unsafe {
            let name = c"model".as_ptr().cast();
            assert_eq!(mdr_model_from_memory(name, bytes.as_ptr(), bytes.len(), &mut model), MdrStatus::Ok);
            mdr_model_free(model);
        }
    };
    (0..100).for_each(|_| cycle());
    let before = resident();
    (0..300).for_each(|_| cycle());
    let grown = resident().saturating_sub(before);
    assert!(grown < 1 << 20, "300 models left {grown} bytes behind");
}
