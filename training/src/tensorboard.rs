//! Scalars as a TensorBoard event file: the records of TensorFlow's TFRecord format, written by hand because the two
//! messages it takes are smaller than any dependency.

use anyhow::{Context, Result};
use prost::Message;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// `tensorflow.Event`, as far as it is used.
#[derive(Clone, PartialEq, Message)]
struct Event {
    #[prost(double, tag = "1")]
    wall_time: f64,
    #[prost(int64, tag = "2")]
    step: i64,
    #[prost(string, optional, tag = "3")]
    file_version: Option<String>,
    #[prost(message, optional, tag = "5")]
    summary: Option<Summary>,
}

#[derive(Clone, PartialEq, Message)]
struct Summary {
    #[prost(message, repeated, tag = "1")]
    value: Vec<Scalar>,
}

#[derive(Clone, PartialEq, Message)]
struct Scalar {
    #[prost(string, tag = "1")]
    tag: String,
    #[prost(float, tag = "2")]
    simple_value: f32,
}

/// An open event file.
#[derive(Debug)]
pub struct Events {
    file: std::fs::File,
}

impl Events {
    /// Creates a new file in the folder; TensorBoard joins the files of a resumed run.
    ///
    /// # Errors
    /// Where it cannot be created.
    pub fn create(folder: &Path) -> Result<Self> {
        let name = format!("events.out.tfevents.{:.0}.{}", now(), std::process::id());
        let path = folder.join(name);
        let file = std::fs::File::create(&path).with_context(|| path.display().to_string())?;
        let mut events = Self { file };
        events.record(&Event { file_version: Some("brain.Event:2".into()), ..event(0) })?;
        Ok(events)
    }

    /// Writes the scalars of one step.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let value = |&(tag, value): &(&str, f64)| Scalar { tag: tag.to_owned(), simple_value: value as f32 };
        let summary = Summary { value: scalars.iter().map(value).collect() };
        self.record(&Event { summary: Some(summary), ..event(step) })
    }

    /// Length, its checksum, the message, its checksum.
    fn record(&mut self, event: &Event) -> Result<()> {
        let message = event.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        let checks = [masked_crc32c(&length), masked_crc32c(&message)].map(u32::to_le_bytes);
        Ok(self.file.write_all(&[&length[..], &checks[0], &message, &checks[1]].concat())?)
    }
}

fn event(step: u64) -> Event {
    Event { wall_time: now(), step: step as i64, ..Default::default() }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// CRC-32C (Castagnoli), then TFRecord's masking.
fn masked_crc32c(bytes: &[u8]) -> u32 {
    let crc = !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82F6_3B78 & (crc & 1).wrapping_neg()))
    });
    crc.rotate_right(15).wrapping_add(0xA282_EAD8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_is_that_of_the_standard() {
        // CRC-32C of "123456789" is 0xE3069283 (RFC 3720's polynomial); then the mask.
        assert_eq!(masked_crc32c(b"123456789"), 0xE306_9283u32.rotate_right(15).wrapping_add(0xA282_EAD8));
    }
}
