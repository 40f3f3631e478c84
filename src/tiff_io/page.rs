//! One directory → one page: what it is (refused with the name of the tag where mdr cannot read it), and its strips
//! or tiles → samples.
//!
//! Uncompressed chunks are read here, in blocks of rows. A compressed chunk is handed to the `tiff` crate as the only
//! strip of a small file in memory: so the crate sees no byte but those of the chunk, and whatever the rest of
//! the file claims cannot matter to it. Deflate is undone here too, as the crate leaves its checksum unread. How many
//! samples a chunk may expand to is bounded by what its compression can do at best.

use super::directory::{Directory, TiffFile, tag};
use crate::{PixelType, Result};
use flate2::{Decompress, FlushDecompress};
use tiff::decoder::{Decoder, Limits};

/// Bytes of an uncompressed chunk that are read at once.
const BLOCK: usize = 1 << 18;

/// The compressions that mdr reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Compression {
    None,
    Lzw,
    Deflate,
    PackBits,
    Zstd,
}

impl Compression {
    /// Bytes that one compressed byte can become at most: a deflate symbol of 2 bits gives 258 bytes, an LZW code of
    /// 12 bits at most 3838, a PackBits pair 128, a zstd block of 4 bytes 128 KiB.
    fn max_ratio(self) -> u64 {
        match self {
            Self::None => 1,
            Self::Lzw => 2600,
            Self::Deflate => 1040,
            Self::PackBits => 64,
            Self::Zstd => 1 << 15,
        }
    }

    fn code(self) -> u16 {
        match self {
            Self::None => 1,
            Self::Lzw => 5,
            Self::Deflate => 8,
            Self::PackBits => 32773,
            Self::Zstd => 50000,
        }
    }
}

/// What a page is, without where its chunks are: all that is needed of the pages after the first one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Format {
    pub width: u32,
    pub height: u32,
    pub pixel_type: PixelType,
    compression: Compression,
    /// 1 none, 2 horizontal, 3 floating point.
    predictor: u16,
    tiled: bool,
    chunk_width: u32,
    chunk_height: u32,
}

impl Format {
    /// Reads and checks the tags of a page. `imagej`: the file is ImageJ's, whose palettes are mere display.
    pub fn read(file: &mut TiffFile, directory: &Directory, imagej: bool) -> Result<Self> {
        let (width, height) = dimensions(file, directory)?;
        let depth = file.value(directory, tag::IMAGE_DEPTH)?.unwrap_or(1);
        if depth > 1 {
            return Err(file.unsupported(format!(
                "ImageDepth (tag {}) is {depth}; mdr reads pages of one plane: save the stack as an ImageJ or OME-TIFF",
                tag::IMAGE_DEPTH
            )));
        }
        let pixel_type = pixel_type(file, directory, imagej)?;
        let compression = compression(file, directory)?;
        let predictor = match (compression, file.value(directory, tag::PREDICTOR)?.unwrap_or(1)) {
            // Only these three have predictors; libtiff ignores the tag elsewhere too.
            (Compression::Lzw | Compression::Deflate | Compression::Zstd, predictor) => predictor,
            _ => 1,
        };
        let float = matches!(pixel_type, PixelType::F32 | PixelType::F64);
        if !(predictor == 1 || predictor == 2 || predictor == 3 && float) {
            return Err(file.unsupported(format!(
                "Predictor (tag {}) is {predictor} for {pixel_type:?} samples; mdr reads 1 (none), 2 (horizontal) and, \
                 for floats, 3; save the file without compression",
                tag::PREDICTOR
            )));
        }
        let tiled = directory.get(tag::TILE_WIDTH).is_some();
        let (chunk_width, chunk_height) = if tiled {
            (
                file.value(directory, tag::TILE_WIDTH)?.unwrap_or(0),
                file.value(directory, tag::TILE_LENGTH)?.unwrap_or(0),
            )
        } else {
            let rows = file.value(directory, tag::ROWS_PER_STRIP)?.unwrap_or(u64::from(height));
            (u64::from(width), rows.min(u64::from(height)))
        };
        // A tile may be larger than the image, but no more than padding makes it.
        let side = |chunk: u64, image: u32| {
            u32::try_from(chunk).ok().filter(|&chunk| chunk > 0 && chunk <= image.saturating_add(1 << 13))
        };
        let (Some(chunk_width), Some(chunk_height)) = (side(chunk_width, width), side(chunk_height, height)) else {
            return Err(file.bad(format!(
                "damaged TIFF: strips or tiles of {chunk_width}x{chunk_height} pixels in a page of {width}x{height}"
            )));
        };
        let predictor = predictor as u16;
        Ok(Self { width, height, pixel_type, compression, predictor, tiled, chunk_width, chunk_height })
    }

    /// Whether a page can be a plane of the same image.
    pub fn matches(&self, other: &Self) -> bool {
        (self.width, self.height, self.pixel_type) == (other.width, other.height, other.pixel_type)
    }

    /// Bytes of the page's samples, expanded.
    pub fn plane_bytes(&self) -> u64 {
        // Each factor is below 2^32, 2^32 and 2^4: saturate, and no file is long enough.
        (u64::from(self.width) * u64::from(self.height)).saturating_mul(self.pixel_type.bytes() as u64)
    }

    /// Fewest bytes of a file that can hold the page.
    pub fn least_file_bytes(&self) -> u64 {
        self.plane_bytes() / self.compression.max_ratio()
    }
}

/// A page and where its chunks are: strips from top to bottom, tiles row by row.
pub(super) struct Page {
    pub format: Format,
    offsets: Vec<u64>,
    counts: Vec<u64>,
}

impl Page {
    /// Reads the tables of a page's strips or tiles.
    pub fn read(file: &mut TiffFile, directory: &Directory, imagej: bool) -> Result<Self> {
        let format = Format::read(file, directory, imagej)?;
        let (offsets_tag, counts_tag) = if format.tiled {
            (tag::TILE_OFFSETS, tag::TILE_BYTE_COUNTS)
        } else {
            (tag::STRIP_OFFSETS, tag::STRIP_BYTE_COUNTS)
        };
        let across = u64::from(format.width.div_ceil(format.chunk_width));
        let chunks = across * u64::from(format.height.div_ceil(format.chunk_height));
        let Some(&entry) = directory.get(offsets_tag) else {
            return Err(file.bad(format!("damaged TIFF: a page lacks tag {offsets_tag}, the offsets of its pixels")));
        };
        let offsets = file.uints(&entry, chunks)?;
        let counts = match directory.get(counts_tag).copied() {
            Some(entry) => file.uints(&entry, chunks)?,
            // Old writers leave the byte counts out where nothing is compressed.
            None if format.compression == Compression::None => vec![u64::MAX; offsets.len()],
            None => return Err(file.bad(format!("damaged TIFF: a page lacks tag {counts_tag}, its byte counts"))),
        };
        Ok(Self { format, offsets, counts })
    }

    /// A page of samples that start at `offset`, uncompressed and without gaps, in the format of this one.
    pub fn contiguous(&self, offset: u64) -> Self {
        let format = Format { chunk_height: self.format.height, ..self.format };
        Self { format, offsets: vec![offset], counts: vec![format.plane_bytes()] }
    }

    /// Where the samples start, if they are uncompressed strips without gaps between them.
    pub fn contiguous_offset(&self) -> Option<u64> {
        let format = &self.format;
        if format.tiled || format.compression != Compression::None {
            return None;
        }
        let strip = self.row_bytes(format.chunk_width) * u64::from(format.chunk_height);
        let gapless = self.offsets.windows(2).all(|pair| pair[0].checked_add(strip) == Some(pair[1]));
        self.offsets.first().copied().filter(|_| gapless)
    }

    fn row_bytes(&self, width: u32) -> u64 {
        u64::from(width) * self.format.pixel_type.bytes() as u64
    }

    /// Fills `samples` (height times width, rows first) with the page.
    pub fn samples(&self, file: &mut TiffFile, samples: &mut [f32]) -> Result<()> {
        let format = &self.format;
        let across = format.width.div_ceil(format.chunk_width) as usize;
        let stride = format.width as usize;
        for (i, (&offset, &count)) in self.offsets.iter().zip(&self.counts).enumerate() {
            let (column, row) = ((i % across) as u32 * format.chunk_width, (i / across) as u32 * format.chunk_height);
            let width = format.chunk_width.min(format.width - column) as usize;
            let height = format.chunk_height.min(format.height - row);
            let start = row as usize * stride + column as usize;
            let mut rows = samples[start..].chunks_mut(stride).take(height as usize).map(|row| &mut row[..width]);
            if offset == 0 && count == 0 {
                // A sparse file leaves out what is empty; the header lies there.
                rows.for_each(|row| row.fill(0.0));
            } else if format.compression == Compression::None {
                // Some writers leave the count at 0.
                let needed = self.row_bytes(format.chunk_width) * u64::from(height);
                if count != 0 && count < needed {
                    return Err(
                        file.bad(format!("damaged TIFF: a strip or tile of {needed} bytes is said to have {count}"))
                    );
                }
                self.plain_chunk(file, offset, &mut rows)?;
            } else {
                // The rows below the image are stored in a tile, but need not be in the last strip.
                let stored = if format.tiled { format.chunk_height } else { height };
                self.compressed_chunk(file, offset, count, stored, &mut rows)?;
            }
        }
        Ok(())
    }

    fn plain_chunk(
        &self,
        file: &mut TiffFile,
        mut offset: u64,
        rows: &mut dyn Iterator<Item = &mut [f32]>,
    ) -> Result<()> {
        let Format { pixel_type, chunk_width, .. } = self.format;
        let row_bytes = self.row_bytes(chunk_width) as usize;
        // `least_file_bytes` was checked: a row of an uncompressed image is not longer than the file.
        let mut block = file.buffer(((BLOCK / row_bytes).max(1) * row_bytes) as u64)?;
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let group: Vec<_> = rows.by_ref().take(block.len() / row_bytes).collect();
            let bytes = &mut block[..group.len() * row_bytes];
            file.read_at(offset, bytes)?;
            offset += bytes.len() as u64;
            for (row, bytes) in group.into_iter().zip(bytes.chunks_exact(row_bytes)) {
                to_f32(bytes, pixel_type, file.big_endian, row);
            }
        }
        Ok(())
    }

    fn compressed_chunk(
        &self,
        file: &mut TiffFile,
        offset: u64,
        count: u64,
        stored_rows: u32,
        rows: &mut dyn Iterator<Item = &mut [f32]>,
    ) -> Result<()> {
        let Format { pixel_type, mut compression, predictor, chunk_width, .. } = self.format;
        let row_bytes = self.row_bytes(chunk_width);
        let expanded = row_bytes.saturating_mul(u64::from(stored_rows));
        file.check_range(offset, count)?;
        if count.saturating_mul(compression.max_ratio()) < expanded {
            return Err(file.bad(format!(
                "damaged TIFF: a strip or tile of {expanded} bytes cannot come from {count} compressed bytes"
            )));
        }
        // No compression makes data twice as long: what is beyond belongs to something else.
        let count = count.min(expanded.saturating_mul(2).saturating_add(1 << 16));
        let mut stored = file.buffer(count)?;
        file.read_at(offset, &mut stored)?;
        let mut bytes = file.buffer(expanded)?;
        let damaged = |how: &dyn std::fmt::Display| {
            file.bad(format!("damaged TIFF: {:?} data at byte {offset}: {how}", self.format.compression))
        };
        let deflated = compression == Compression::Deflate;
        let big_endian = if deflated && predictor == 1 {
            inflate(&stored, &mut bytes).map_err(|how| damaged(&how))?;
            file.big_endian
        } else {
            if deflated {
                let mut inflated = file.buffer(expanded)?;
                inflate(&stored, &mut inflated).map_err(|how| damaged(&how))?;
                (compression, stored) = (Compression::None, inflated);
            }
            let header = self.one_strip_header(file, stored_rows, stored.len() as u64, compression)?;
            stored.splice(..0, header);
            // What the crate may allocate is bounded by the bytes above.
            let unlimited = |decoder: Decoder<_>| decoder.with_limits(Limits::unlimited());
            Decoder::new(std::io::Cursor::new(stored))
                .map(unlimited)
                .and_then(|mut decoder| decoder.read_chunk_bytes(0, &mut bytes))
                .map_err(|e| damaged(&e))?;
            // The crate hands out samples in the byte order of this machine.
            cfg!(target_endian = "big")
        };
        for (row, bytes) in rows.zip(bytes.chunks_exact(row_bytes as usize)) {
            to_f32(bytes, pixel_type, big_endian, row);
        }
        Ok(())
    }

    /// Header and directory of a TIFF whose only strip, of `count` bytes, follows.
    fn one_strip_header(&self, file: &TiffFile, rows: u32, count: u64, compression: Compression) -> Result<Vec<u8>> {
        let Format { pixel_type, predictor, chunk_width, .. } = self.format;
        let Ok(count) = u32::try_from(count) else {
            return Err(file.unsupported("a compressed strip is longer than 4 GB; save the file without compression"));
        };
        let sample_format = match pixel_type {
            PixelType::U8 | PixelType::U16 | PixelType::U32 => 1,
            PixelType::I8 | PixelType::I16 | PixelType::I32 => 2,
            PixelType::F32 | PixelType::F64 => 3,
        };
        const ENTRIES: u32 = 11;
        let entries: [(u16, u32); ENTRIES as usize] = [
            (tag::IMAGE_WIDTH, chunk_width),
            (tag::IMAGE_LENGTH, rows),
            (tag::BITS_PER_SAMPLE, pixel_type.bytes() as u32 * 8),
            (tag::COMPRESSION, compression.code().into()),
            (tag::PHOTOMETRIC, 1),
            (tag::STRIP_OFFSETS, 8 + 2 + 12 * ENTRIES + 4),
            (tag::SAMPLES_PER_PIXEL, 1),
            (tag::ROWS_PER_STRIP, rows),
            (tag::STRIP_BYTE_COUNTS, count),
            (tag::PREDICTOR, predictor.into()),
            (tag::SAMPLE_FORMAT, sample_format),
        ];
        let short = |value: u16| if file.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let long = |value: u32| if file.big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        let mut bytes = if file.big_endian { b"MM".to_vec() } else { b"II".to_vec() };
        bytes.extend(short(42));
        bytes.extend(long(8));
        bytes.extend(short(ENTRIES as u16));
        for (tag, value) in entries {
            bytes.extend(short(tag));
            bytes.extend(short(4));
            bytes.extend(long(1));
            bytes.extend(long(value));
        }
        bytes.extend(long(0));
        Ok(bytes)
    }
}

/// Fills `bytes` from a zlib stream, and says what is wrong with it: a checksum that follows them, too. Some writers
/// leave it out.
fn inflate(stream: &[u8], bytes: &mut [u8]) -> std::result::Result<(), String> {
    let mut state = Decompress::new(true);
    loop {
        let [read, written] = [state.total_in() as usize, state.total_out() as usize];
        // The checksum comes after the last byte.
        let mut beyond = [0];
        let rest = if written < bytes.len() { &mut bytes[written..] } else { &mut beyond[..] };
        state.decompress(&stream[read..], rest, FlushDecompress::None).map_err(|e| e.to_string())?;
        let full = written == bytes.len();
        if full {
            return Ok(());
        }
        if [state.total_in() as usize, state.total_out() as usize] == [read, written] {
            return Err(format!("they end after {written} of {} bytes", bytes.len()));
        }
    }
}

/// Width and height of a page.
fn dimensions(file: &mut TiffFile, directory: &Directory) -> Result<(u32, u32)> {
    let mut side = |tag| Ok(file.value(directory, tag)?.and_then(|side| u32::try_from(side).ok()).unwrap_or(0));
    let (width, height) = (side(tag::IMAGE_WIDTH)?, side(tag::IMAGE_LENGTH)?);
    if width == 0 || height == 0 {
        return Err(file.bad(format!("damaged TIFF: a page claims {width}x{height} pixels")));
    }
    Ok((width, height))
}

/// Sample type of a page, from the tags that say what a pixel is.
fn pixel_type(file: &mut TiffFile, directory: &Directory, imagej: bool) -> Result<PixelType> {
    let photometric = file.value(directory, tag::PHOTOMETRIC)?.unwrap_or(1);
    let samples = file.value(directory, tag::SAMPLES_PER_PIXEL)?.unwrap_or(1);
    let colour = match photometric {
        0 | 1 => None,
        3 if imagej => None,
        2 => Some("RGB"),
        3 => Some("palette"),
        5 => Some("CMYK"),
        6 => Some("YCbCr"),
        8..=10 => Some("Lab"),
        _ => Some("not grey"),
    };
    if let Some(colour) = colour {
        return Err(file.unsupported(format!(
            "PhotometricInterpretation (tag {}) is {photometric} ({colour}); mdr reads grey values: split the channels \
             or convert to grey first",
            tag::PHOTOMETRIC
        )));
    }
    if samples != 1 {
        return Err(file.unsupported(format!(
            "SamplesPerPixel (tag {}) is {samples}; mdr reads one: split the channels first",
            tag::SAMPLES_PER_PIXEL
        )));
    }
    let bits = file.value(directory, tag::BITS_PER_SAMPLE)?.unwrap_or(1);
    let format = file.value(directory, tag::SAMPLE_FORMAT)?.unwrap_or(1);
    Ok(match (format, bits) {
        (1, 8) => PixelType::U8,
        (1, 16) => PixelType::U16,
        (1, 32) => PixelType::U32,
        (2, 8) => PixelType::I8,
        (2, 16) => PixelType::I16,
        (2, 32) => PixelType::I32,
        (3, 32) => PixelType::F32,
        (3, 64) => PixelType::F64,
        _ => {
            let name = match format {
                1 => "unsigned integer",
                2 => "signed integer",
                3 => "float",
                5 | 6 => "complex",
                _ => "undefined",
            };
            return Err(file.unsupported(format!(
                "BitsPerSample (tag {}) is {bits} with SampleFormat (tag {}) {format} ({name}); mdr reads integers of \
                 8, 16 and 32 bits and floats of 32 and 64: convert the file first",
                tag::BITS_PER_SAMPLE,
                tag::SAMPLE_FORMAT
            )));
        }
    })
}

/// Compression of a page.
fn compression(file: &mut TiffFile, directory: &Directory) -> Result<Compression> {
    let code = file.value(directory, tag::COMPRESSION)?.unwrap_or(1);
    let compression = match code {
        1 => Compression::None,
        5 => Compression::Lzw,
        8 | 32946 => Compression::Deflate,
        32773 => Compression::PackBits,
        50000 => Compression::Zstd,
        _ => {
            let name = match code {
                2..=4 => "CCITT fax",
                6 => "old JPEG",
                7 => "JPEG",
                33003 | 33005 | 34712 => "JPEG 2000",
                34887 => "LERC",
                34925 => "LZMA",
                50001 => "WebP",
                22610 | 50002 => "JPEG XL or XR",
                _ => "unknown",
            };
            return Err(file.unsupported(format!(
                "Compression (tag {}) is {code} ({name}); mdr reads 1 (none), 5 (LZW), 8 (deflate), 32773 (PackBits) \
                 and 50000 (zstd): save the file with one of these",
                tag::COMPRESSION
            )));
        }
    };
    let fill_order = file.value(directory, tag::FILL_ORDER)?.unwrap_or(1);
    if fill_order != 1 {
        return Err(file.unsupported(format!(
            "FillOrder (tag {}) is {fill_order}, which reverses the bits of each byte; mdr reads 1: save the file anew \
             with another program",
            tag::FILL_ORDER
        )));
    }
    Ok(compression)
}

/// Converts samples as stored.
fn to_f32(bytes: &[u8], pixel_type: PixelType, big_endian: bool, samples: &mut [f32]) {
    macro_rules! convert {
        ($type:ty) => {{
            const LEN: usize = size_of::<$type>();
            let pairs = samples.iter_mut().zip(bytes.as_chunks::<LEN>().0);
            // A loop for each order: one that chooses by sample is not vectorised.
            if big_endian {
                pairs.for_each(|(sample, bytes)| *sample = <$type>::from_be_bytes(*bytes) as f32);
            } else {
                pairs.for_each(|(sample, bytes)| *sample = <$type>::from_le_bytes(*bytes) as f32);
            }
        }};
    }
    match pixel_type {
        PixelType::U8 => convert!(u8),
        PixelType::U16 => convert!(u16),
        PixelType::U32 => convert!(u32),
        PixelType::I8 => convert!(i8),
        PixelType::I16 => convert!(i16),
        PixelType::I32 => convert!(i32),
        PixelType::F32 => convert!(f32),
        PixelType::F64 => convert!(f64),
    }
}
