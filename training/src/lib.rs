//! mdr-train trains, exports and evaluates the models that mdr runs.
//!
//! ```text
//! pairs on disk → patches (or clean images → simulated noise → patches) → method step → checkpoint → .onnx → parity
//! ```

pub mod adam;
pub mod augment;
pub mod base;
pub mod base64;
pub mod benchmark;
pub mod calibrate;
pub mod checkpoint;
pub mod config;
pub mod degrade;
pub mod evaluate;
pub mod export;
pub mod frequency;
pub mod html;
pub mod losses;
pub mod methods;
pub mod nets;
pub mod onnx;
pub mod pairs;
pub mod parity;
pub mod patches;
pub mod report;
pub mod simulate;
pub mod synthesize;
pub mod table;
pub mod tensorboard;
pub mod train;
pub mod transfer;
pub mod validate;
