//! Model files: what is read off a graph, which are loaded and which refused, what they compute, and packages of bioimage.io. One
//! program, because each that links the engine takes long to link.

mod bioimage_io;
#[path = "../common/mod.rs"]
mod common;
mod conv;
mod field;
mod loading;
