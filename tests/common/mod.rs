//! What several tests share; each test uses a part of it.
#![allow(dead_code)]

pub mod contract;
pub mod models;
pub mod tools;
