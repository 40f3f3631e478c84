//! The files of `src/network/conv` that know nothing of tract, and their tests: seconds to build for another processor,
//! where the whole of mdr takes many minutes. `make test-arm64` runs them under qemu.
#![allow(unsafe_code)] // as in the engine
#![allow(dead_code)] // what only tract's graph asks for

#[path = "../../src/network/conv/direct.rs"]
mod direct;
#[path = "../../src/network/conv/program.rs"]
mod program;
#[path = "../../src/network/conv/samples.rs"]
mod samples;
#[path = "../../src/share.rs"]
mod share;
#[path = "../../src/network/conv/simd.rs"]
mod simd;
#[path = "../../src/network/conv/team.rs"]
mod team;
#[cfg(test)]
#[path = "../../src/network/conv/tests.rs"]
mod tests;
#[path = "../../src/network/conv/transform.rs"]
mod transform;
#[path = "../../src/network/conv/view.rs"]
mod view;
#[path = "../../src/network/watch.rs"]
mod watch;
#[path = "../../src/network/conv/winograd.rs"]
mod winograd;
#[path = "../../src/zeros.rs"]
mod zeros;

use watch::Watch;
