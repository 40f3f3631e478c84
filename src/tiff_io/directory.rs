//! Bytes of a file → directories of tags. Nothing is allocated before it is known that the file is long enough to
//! hold it, so that a header's lies cost nothing.

use crate::zeros::zeros;
use crate::{Error, Result};
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Directories with more entries than this are damage: real ones have some twenty.
const MAX_ENTRIES: u64 = 4096;

/// Tags that mdr knows, by their names in the TIFF specification.
pub(super) mod tag {
    pub const NEW_SUBFILE_TYPE: u16 = 254;
    pub const SUBFILE_TYPE: u16 = 255;
    pub const IMAGE_WIDTH: u16 = 256;
    pub const IMAGE_LENGTH: u16 = 257;
    pub const BITS_PER_SAMPLE: u16 = 258;
    pub const COMPRESSION: u16 = 259;
    pub const PHOTOMETRIC: u16 = 262;
    pub const FILL_ORDER: u16 = 266;
    pub const IMAGE_DESCRIPTION: u16 = 270;
    pub const STRIP_OFFSETS: u16 = 273;
    pub const SAMPLES_PER_PIXEL: u16 = 277;
    pub const ROWS_PER_STRIP: u16 = 278;
    pub const STRIP_BYTE_COUNTS: u16 = 279;
    pub const X_RESOLUTION: u16 = 282;
    pub const Y_RESOLUTION: u16 = 283;
    pub const RESOLUTION_UNIT: u16 = 296;
    pub const PREDICTOR: u16 = 317;
    pub const TILE_WIDTH: u16 = 322;
    pub const TILE_LENGTH: u16 = 323;
    pub const TILE_OFFSETS: u16 = 324;
    pub const TILE_BYTE_COUNTS: u16 = 325;
    pub const SAMPLE_FORMAT: u16 = 339;
    pub const IMAGE_DEPTH: u16 = 32997;
    /// MetaMorph: an entry for each plane, of which the only directory describes the first.
    pub const METAMORPH_PLANES: u16 = 33629;
    pub const IMAGEJ_COUNTS: u16 = 50838;
    pub const IMAGEJ_DATA: u16 = 50839;
}

/// An open TIFF file: its header, and reading at any offset.
pub(super) struct TiffFile {
    file: File,
    pub path: PathBuf,
    pub len: u64,
    pub big_endian: bool,
    big_tiff: bool,
    pub first_directory: u64,
}

/// One entry of a directory: so many values of one type, stored at an offset in the file.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    offset: u64,
}

/// One directory: the tags of a page, and where the next page is (0: nowhere).
pub(super) struct Directory {
    entries: Vec<Entry>,
    pub next: u64,
}

impl Entry {
    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }
}

impl Directory {
    pub fn get(&self, tag: u16) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.tag == tag)
    }
}

impl TiffFile {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<Self> {
        // A pipe waits for a writer that may never come: it is not opened.
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, e))?;
        if metadata.is_dir() {
            return Err(Error::io(path, ErrorKind::IsADirectory.into()));
        }
        if !metadata.is_file() {
            let message = "a device or pipe; expected a regular file, which can be read at any place";
            return Err(Error::io(path, std::io::Error::new(ErrorKind::InvalidInput, message)));
        }
        let file = File::open(path).map_err(|e| Error::io(path, e))?;
        let mut file = Self {
            file,
            path: path.to_owned(),
            len: metadata.len(),
            big_endian: false,
            big_tiff: false,
            first_directory: 0,
        };
        file.read_header()?;
        Ok(file)
    }

    fn read_header(&mut self) -> Result<()> {
        if self.len == 0 {
            return Err(self.bad("the file is empty; expected a TIFF"));
        }
        let mut start = [0; 8];
        let found = self.len.min(8) as usize;
        self.read_at(0, &mut start[..found])?;
        self.big_endian = start.starts_with(b"MM");
        let version = self.uint(&start[2..4]);
        if !(start.starts_with(b"MM") || start.starts_with(b"II")) || !(version == 42 || version == 43) {
            return Err(self.bad("not a TIFF: it does not begin as one; convert it to TIFF first"));
        }
        self.big_tiff = version == 43;
        self.first_directory = if self.big_tiff {
            let mut offset = [0; 8];
            self.read_at(8, &mut offset)?;
            if self.uint(&start[4..6]) != 8 {
                return Err(self.bad("damaged BigTIFF header: offsets are not 8 bytes long"));
            }
            self.uint(&offset)
        } else {
            self.read_at(0, &mut start)?;
            self.uint(&start[4..8])
        };
        Ok(())
    }

    /// Fills `bytes` from `offset` on.
    pub fn read_at(&mut self, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.check_range(offset, bytes.len() as u64)?;
        self.file
            .seek(SeekFrom::Start(offset))
            .and_then(|_| self.file.read_exact(bytes))
            .map_err(|e| Error::io(&self.path, e))
    }

    /// Memory for so many bytes of the file, or that they expand to: a sparse file is long without holding much.
    pub fn buffer(&self, len: u64) -> Result<Vec<u8>> {
        zeros(usize::try_from(len).unwrap_or(usize::MAX))
            .map_err(|_| Error::io(&self.path, ErrorKind::OutOfMemory.into()))
    }

    /// Refuses a range that the file is too short for.
    pub fn check_range(&self, offset: u64, len: u64) -> Result<()> {
        match offset.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => Err(self.bad(format!(
                "truncated or damaged TIFF: {len} bytes are expected at byte {offset}, the file has {}",
                self.len
            ))),
        }
    }

    /// Reads the directory at `offset`.
    pub fn directory(&mut self, offset: u64) -> Result<Directory> {
        let (count_len, entry_len, word) = if self.big_tiff { (8, 20, 8) } else { (2, 12, 4) };
        let mut word_bytes = [0; 8];
        self.read_at(offset, &mut word_bytes[..count_len])?;
        let count = self.uint(&word_bytes[..count_len]);
        if count == 0 || count > MAX_ENTRIES {
            return Err(self.bad(format!("damaged TIFF: the directory at byte {offset} claims {count} entries")));
        }
        let start = offset + count_len as u64;
        let mut bytes = vec![0; count as usize * entry_len + word];
        self.read_at(start, &mut bytes)?;
        let (table, next) = bytes.split_at(count as usize * entry_len);
        let next = self.uint(next);
        let mut entries = Vec::with_capacity(count as usize);
        for (i, bytes) in table.chunks_exact(entry_len).enumerate() {
            let (values, stored) = bytes[4..].split_at(word);
            let mut entry =
                Entry { tag: self.uint(&bytes[..2]) as u16, kind: self.uint(&bytes[2..4]) as u16, count: 0, offset: 0 };
            entry.count = self.uint(values);
            let fits = entry.count.checked_mul(kind_len(entry.kind)).is_some_and(|len| len <= word as u64);
            // A value that fits into the entry is stored there.
            entry.offset = if fits { start + (i * entry_len + 4 + word) as u64 } else { self.uint(stored) };
            entries.push(entry);
        }
        Ok(Directory { entries, next })
    }

    /// The bytes of an entry's values.
    pub fn bytes(&mut self, entry: &Entry) -> Result<Vec<u8>> {
        self.first_bytes(entry, entry.count)
    }

    /// The bytes of an entry's first `count` values.
    fn first_bytes(&mut self, entry: &Entry, count: u64) -> Result<Vec<u8>> {
        let len = count.saturating_mul(kind_len(entry.kind));
        self.check_range(entry.offset, len)?;
        let mut bytes = self.buffer(len)?;
        self.read_at(entry.offset, &mut bytes)?;
        Ok(bytes)
    }

    /// The first `count` values of an entry of unsigned integers.
    pub fn uints(&mut self, entry: &Entry, count: u64) -> Result<Vec<u64>> {
        if !matches!(entry.kind, 1 | 3 | 4 | 7 | 13 | 16 | 18) {
            return Err(self.bad(format!(
                "damaged TIFF: tag {} has values of type {}, expected unsigned integers",
                entry.tag, entry.kind
            )));
        }
        if entry.count < count {
            return Err(
                self.bad(format!("damaged TIFF: tag {} has {} values, expected {count}", entry.tag, entry.count))
            );
        }
        let bytes = self.first_bytes(entry, count)?;
        Ok(bytes.chunks_exact(kind_len(entry.kind) as usize).map(|b| self.uint(b)).collect())
    }

    /// The first value of a tag of unsigned integers, where the directory has the tag.
    pub fn value(&mut self, directory: &Directory, tag: u16) -> Result<Option<u64>> {
        match directory.get(tag) {
            Some(entry) => Ok(self.uints(entry, 1)?.first().copied()),
            None => Ok(None),
        }
    }

    /// The value of a rational tag, where it is there and makes sense.
    pub fn rational(&mut self, directory: &Directory, tag: u16) -> Option<f64> {
        let entry = directory.get(tag).filter(|entry| entry.kind == 5 && entry.count >= 1)?;
        let bytes = self.first_bytes(entry, 1).ok()?;
        let value = self.uint(&bytes[..4]) as f64 / self.uint(&bytes[4..]) as f64;
        (value.is_finite() && value > 0.0).then_some(value)
    }

    /// The text of a tag up to its first NUL: UTF-8, or Latin-1 where it is not valid UTF-8 (older ImageJ's `µ`).
    pub fn text(&mut self, directory: &Directory, tag: u16) -> Result<Option<String>> {
        let Some(&entry) = directory.get(tag).filter(|entry| matches!(entry.kind, 1 | 2 | 7)) else {
            return Ok(None);
        };
        let mut bytes = self.bytes(&entry)?;
        bytes.truncate(bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len()));
        Ok(Some(String::from_utf8(bytes).unwrap_or_else(|e| e.as_bytes().iter().copied().map(char::from).collect())))
    }

    /// An unsigned integer of up to 8 bytes in the file's byte order.
    fn uint(&self, bytes: &[u8]) -> u64 {
        let join = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
        if self.big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
    }

    /// A damaged file.
    pub fn bad(&self, message: impl Into<String>) -> Error {
        Error::BadTiff { path: self.path.clone(), message: message.into() }
    }

    /// A valid file that mdr cannot read.
    pub fn unsupported(&self, message: impl Into<String>) -> Error {
        Error::UnsupportedTiff { path: self.path.clone(), message: message.into() }
    }
}

/// Bytes of one value of a TIFF data type.
fn kind_len(kind: u16) -> u64 {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16 | 17 | 18 => 8,
        _ => 1,
    }
}
