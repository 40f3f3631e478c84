//! TIFF in and out: pixel type × axes × storage × compression, calibration and metadata, and files that are
//! damaged or made to harm. Files are made here byte by byte; the `tiff` crate's encoder compresses.

mod common;

use mdr::image::{Extra, ImageJMetadata};
use mdr::tiff_io::{TiffReader, TiffWriter, check_tiff, read_tiff, write_tiff};
use mdr::{Axes, Error, Image, ImageInfo, PixelType, PlaneIndex, PlaneSink, PlaneSource, Shape};
use rand::{Rng, RngExt, SeedableRng};
use rand_pcg::Pcg64;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

const TYPES: [PixelType; 8] = [
    PixelType::U8,
    PixelType::U16,
    PixelType::U32,
    PixelType::I8,
    PixelType::I16,
    PixelType::I32,
    PixelType::F32,
    PixelType::F64,
];

// ---- Memory: what each thread has allocated, now and at most.

struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let now = NOW.get() + bytes;
    NOW.set(now);
    PEAK.set(PEAK.get().max(now));
}

// SAFETY: hands everything to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Most bytes that `work` held at once.
fn peak_bytes<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = NOW.get();
    PEAK.set(before);
    let result = work();
    (result, (PEAK.get() - before) as usize)
}

// ---- Making files.

#[derive(Clone, Copy, PartialEq, Debug)]
enum Packing {
    None,
    Lzw,
    Deflate,
    PackBits,
    Zstd,
}

#[derive(Clone)]
enum Value {
    Short(u16),
    Long(u32),
    Longs(Vec<u32>),
    Rational(u32, u32),
    Text(String),
    Bytes(Vec<u8>),
}

/// One page: tags, and chunks of stored bytes that become strips, or tiles of this size.
#[derive(Clone)]
struct Page {
    tags: Vec<(u16, Value)>,
    chunks: Vec<Vec<u8>>,
    tiled: bool,
}

impl Page {
    /// Uncompressed 8-bit page of one strip.
    fn plain(width: u32, height: u32, pixels: &[u8]) -> Self {
        let tags = vec![
            (256, Value::Long(width)),
            (257, Value::Long(height)),
            (258, Value::Short(8)),
            (259, Value::Short(1)),
            (262, Value::Short(1)),
            (277, Value::Short(1)),
            (278, Value::Long(height)),
        ];
        Self { tags, chunks: vec![pixels.to_vec()], tiled: false }
    }

    fn with(mut self, tag: u16, value: Value) -> Self {
        self.tags.retain(|old| old.0 != tag);
        self.tags.push((tag, value));
        self
    }

    fn text(self, text: &str) -> Self {
        self.with(270, Value::Text(text.into()))
    }
}

/// A file of these pages: header, then for each page its chunks, its values, its directory.
fn build(pages: &[Page], big_endian: bool, big_tiff: bool) -> Vec<u8> {
    let num = |value: u64, len: usize| -> Vec<u8> {
        if big_endian { value.to_be_bytes()[8 - len..].to_vec() } else { value.to_le_bytes()[..len].to_vec() }
    };
    let word = if big_tiff { 8 } else { 4 };
    let mut bytes = if big_endian { b"MM".to_vec() } else { b"II".to_vec() };
    bytes.extend(num(if big_tiff { 43 } else { 42 }, 2));
    if big_tiff {
        bytes.extend([num(8, 2), num(0, 2)].concat());
    }
    let mut link = bytes.len();
    bytes.extend(num(0, word));
    for page in pages {
        let mut offsets = Vec::new();
        for chunk in &page.chunks {
            // What a sparse file leaves out is nowhere.
            offsets.push(if chunk.is_empty() { 0 } else { bytes.len() as u32 });
            bytes.extend(chunk);
        }
        let mut tags = page.tags.clone();
        let counts = page.chunks.iter().map(|chunk| chunk.len() as u32).collect();
        tags.push((if page.tiled { 324 } else { 273 }, Value::Longs(offsets)));
        tags.push((if page.tiled { 325 } else { 279 }, Value::Longs(counts)));
        tags.sort_by_key(|tag| tag.0);
        let mut table = num(tags.len() as u64, if big_tiff { 8 } else { 2 });
        for (tag, value) in &tags {
            let (kind, count, value) = match value {
                Value::Short(v) => (3, 1, num((*v).into(), 2)),
                Value::Long(v) => (4, 1, num((*v).into(), 4)),
                Value::Longs(v) => (4, v.len(), v.iter().flat_map(|&v| num(v.into(), 4)).collect()),
                Value::Rational(a, b) => (5, 1, [num((*a).into(), 4), num((*b).into(), 4)].concat()),
                Value::Text(v) => (2, v.len() + 1, [v.as_bytes(), &[0]].concat()),
                Value::Bytes(v) => (1, v.len(), v.clone()),
            };
            table.extend([num((*tag).into(), 2), num(kind, 2), num(count as u64, word)].concat());
            let mut stored = value.clone();
            if value.len() > word {
                stored = num(bytes.len() as u64, word);
                bytes.extend(value);
            }
            stored.resize(word, 0);
            table.extend(stored);
        }
        let at = num(bytes.len() as u64, word);
        bytes[link..link + word].copy_from_slice(&at);
        link = bytes.len() + table.len();
        bytes.extend(table);
        bytes.extend(num(0, word));
    }
    bytes
}

/// Compresses, with the `tiff` crate's encoder where it can: a page of one row.
fn pack(bytes: &[u8], packing: Packing) -> Vec<u8> {
    use tiff::encoder::{Compression, DeflateLevel, TiffEncoder, colortype::Gray8};
    let compression = match packing {
        Packing::None => return bytes.to_vec(),
        Packing::Lzw => Compression::Lzw,
        Packing::Deflate => Compression::Deflate(DeflateLevel::Balanced),
        Packing::PackBits => Compression::Packbits,
        Packing::Zstd => {
            // A frame with a length of 4 bytes and one raw block, the last.
            let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
            frame.extend((bytes.len() as u32).to_le_bytes());
            frame.extend(&((bytes.len() as u32) << 3 | 1).to_le_bytes()[..3]);
            frame.extend(bytes);
            return frame;
        }
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let mut encoder = TiffEncoder::new(&mut file).unwrap().with_compression(compression);
    encoder.write_image::<Gray8>(bytes.len() as u32, 1, bytes).unwrap();
    let file = file.into_inner();
    let mut decoder = tiff::decoder::Decoder::new(std::io::Cursor::new(&file)).unwrap();
    let mut value = |tag| decoder.get_tag_u64(tag).unwrap() as usize;
    let (start, len) = (value(tiff::tags::Tag::StripOffsets), value(tiff::tags::Tag::StripByteCounts));
    file[start..start + len].to_vec()
}

/// Random samples that every type can hold exactly, extremes among them.
fn samples(pixel_type: PixelType, len: usize, seed: u64) -> Vec<f32> {
    let mut rng = Pcg64::seed_from_u64(seed);
    let (low, high) = pixel_type.range().unwrap_or((-1e6, 1e6));
    // 32-bit integers above 2^24 are not all f32.
    let (low, high) = (low.max(-16_777_216.0) as i32, high.min(16_777_216.0) as i32);
    let mut samples: Vec<f32> = (0..len).map(|_| rng.random_range(low..=high) as f32).collect();
    samples[0] = low as f32;
    samples[len - 1] = high as f32;
    if pixel_type.range().is_none() {
        samples.iter_mut().for_each(|sample| *sample *= 0.123);
    }
    samples
}

/// Stored bytes of samples.
fn stored(samples: &[f32], pixel_type: PixelType, big_endian: bool) -> Vec<u8> {
    let one = |&sample: &f32| -> Vec<u8> {
        let mut bytes = match pixel_type {
            PixelType::U8 => (sample as u8).to_be_bytes().to_vec(),
            PixelType::U16 => (sample as u16).to_be_bytes().to_vec(),
            PixelType::U32 => (sample as u32).to_be_bytes().to_vec(),
            PixelType::I8 => (sample as i8).to_be_bytes().to_vec(),
            PixelType::I16 => (sample as i16).to_be_bytes().to_vec(),
            PixelType::I32 => (sample as i32).to_be_bytes().to_vec(),
            PixelType::F32 => sample.to_be_bytes().to_vec(),
            PixelType::F64 => f64::from(sample).to_be_bytes().to_vec(),
        };
        if !big_endian {
            bytes.reverse();
        }
        bytes
    };
    samples.iter().flat_map(one).collect()
}

/// Horizontal (2) or floating-point (3) prediction of one row of stored samples.
fn predict(row: &[u8], bytes: usize, predictor: u16, big_endian: bool) -> Vec<u8> {
    if predictor == 2 {
        let value = |sample: &[u8]| {
            let join = |value: u64, &byte: &u8| value << 8 | u64::from(byte);
            if big_endian { sample.iter().fold(0, join) } else { sample.iter().rev().fold(0, join) }
        };
        let mut before = 0u64;
        let difference = |sample: &[u8]| {
            let now = value(sample);
            let difference = now.wrapping_sub(std::mem::replace(&mut before, now));
            if big_endian {
                difference.to_be_bytes()[8 - bytes..].to_vec()
            } else {
                difference.to_le_bytes()[..bytes].to_vec()
            }
        };
        return row.chunks(bytes).flat_map(difference).collect();
    }
    // All first (most significant) bytes, all second bytes, …; then differences of bytes.
    let byte = |place: usize| if big_endian { place } else { bytes - 1 - place };
    let shuffled: Vec<u8> =
        (0..bytes).flat_map(|place| row.chunks(bytes).map(move |sample| sample[byte(place)])).collect();
    let mut before = 0;
    shuffled.iter().map(|&now| now.wrapping_sub(std::mem::replace(&mut before, now))).collect()
}

#[derive(Clone, Copy, Debug)]
struct Storage {
    pixel_type: PixelType,
    big_endian: bool,
    packing: Packing,
    predictor: u16,
    /// Width and height of tiles, or `None` and rows of strips.
    tile: Option<(usize, usize)>,
    rows: usize,
}

/// One page of these samples, stored so.
fn page(samples: &[f32], width: usize, height: usize, storage: Storage) -> Page {
    let Storage { pixel_type, big_endian, packing, predictor, tile, rows } = storage;
    let (chunk_width, chunk_height) = tile.unwrap_or((width, rows));
    let mut chunks = Vec::new();
    for top in (0..height).step_by(chunk_height) {
        for left in (0..width).step_by(chunk_width) {
            let bottom = if tile.is_some() { top + chunk_height } else { height.min(top + chunk_height) };
            let mut bytes = Vec::new();
            for y in top..bottom {
                let sample = |x: usize| if x < width && y < height { samples[y * width + x] } else { 0.0 };
                let row: Vec<f32> = (left..left + chunk_width).map(sample).collect();
                let row = stored(&row, pixel_type, big_endian);
                bytes.extend(match predictor {
                    1 => row,
                    _ => predict(&row, pixel_type.bytes(), predictor, big_endian),
                });
            }
            chunks.push(pack(&bytes, packing));
        }
    }
    let compression = match packing {
        Packing::None => 1,
        Packing::Lzw => 5,
        Packing::Deflate => 8,
        Packing::PackBits => 32773,
        Packing::Zstd => 50000,
    };
    let format = match pixel_type {
        PixelType::U8 | PixelType::U16 | PixelType::U32 => 1,
        PixelType::I8 | PixelType::I16 | PixelType::I32 => 2,
        PixelType::F32 | PixelType::F64 => 3,
    };
    let mut page = Page { chunks, tiled: tile.is_some(), ..Page::plain(width as u32, height as u32, &[]) }
        .with(258, Value::Short(pixel_type.bytes() as u16 * 8))
        .with(259, Value::Short(compression))
        .with(317, Value::Short(predictor))
        .with(339, Value::Short(format));
    if tile.is_some() {
        page.tags.retain(|tag| tag.0 != 278);
        page = page.with(322, Value::Short(chunk_width as u16)).with(323, Value::Short(chunk_height as u16));
    } else {
        page = page.with(278, Value::Long(rows as u32));
    }
    page
}

/// A folder that vanishes, and files in it.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        // Some file systems flush a file that is truncated and written again; a new one is faster.
        let _ = std::fs::remove_file(self.path(name));
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(&self.0).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

fn read_bytes(bytes: &[u8]) -> mdr::Result<Image> {
    let folder = Folder::new();
    read_tiff(folder.file("a.tif", bytes))
}

fn refusal(bytes: &[u8]) -> (Error, String) {
    let error = read_bytes(bytes).unwrap_err();
    let text = error.to_string();
    (error, text)
}

fn image(shape: Shape, pixel_type: PixelType, seed: u64) -> Image {
    Image::new(ImageInfo::new(shape, pixel_type), samples(pixel_type, shape.len(), seed)).unwrap()
}

// ---- What is written is read.

#[test]
fn an_image_that_is_shown_inverted_stays_so() {
    let folder = Folder::new();
    for white_is_zero in [true, false] {
        let bytes =
            build(&[Page::plain(2, 1, &[1, 2]).with(262, Value::Short(u16::from(!white_is_zero)))], false, false);
        let image = read_bytes(&bytes).unwrap();
        assert_eq!((image.info.extra.white_is_zero, &image.samples[..]), (white_is_zero, &[1.0, 2.0][..]));
        write_tiff(folder.path("a.tif"), &image, true).unwrap();
        let again = read_tiff(folder.path("a.tif")).unwrap();
        assert_eq!((again.info.extra.white_is_zero, again.samples), (white_is_zero, image.samples));
    }
}

#[test]
fn every_pixel_type_and_axes_round_trip() {
    let folder = Folder::new();
    let shapes = [(1, 1, 1), (1, 1, 4), (3, 1, 1), (1, 2, 1), (2, 3, 1), (2, 1, 5), (1, 3, 4), (2, 3, 4)];
    for pixel_type in TYPES {
        for (t, c, z) in shapes {
            for (y, x) in [(6, 9), (1, 7), (1, 1)] {
                let shape = Shape { t, c, z, y, x };
                let len = shape.len();
                let mut image = Image::zeros(ImageInfo::new(shape, pixel_type)).unwrap();
                image.samples = if len > 1 { samples(pixel_type, len, len as u64) } else { vec![7.0] };
                write_tiff(folder.path("a.tif"), &image, true).unwrap();
                let back = read_tiff(folder.path("a.tif")).unwrap();
                assert_eq!(back.info.shape, shape);
                assert_eq!(back.info.pixel_type, pixel_type);
                assert_eq!(back.info.axes.sorted(), image.info.axes);
                assert_eq!(back.samples, image.samples, "{pixel_type:?} {shape:?}");
            }
        }
    }
}

#[test]
fn every_storage_reads_the_same() {
    let (width, height) = (21, 18);
    let mut tried = 0;
    for pixel_type in TYPES {
        let expected = samples(pixel_type, width * height, 5);
        for packing in [Packing::None, Packing::Lzw, Packing::Deflate, Packing::PackBits, Packing::Zstd] {
            for (big_endian, big_tiff) in [(false, false), (true, false), (false, true), (true, true)] {
                for (tile, rows) in [(None, height), (None, 5), (None, 1), (Some((16, 16)), 0), (Some((32, 16)), 0)] {
                    let float = pixel_type.range().is_none();
                    for predictor in [1, 2, 3] {
                        let predicts = matches!(packing, Packing::Lzw | Packing::Deflate | Packing::Zstd);
                        if predictor > 1 && !predicts || predictor == 3 && !float {
                            continue;
                        }
                        let storage = Storage { pixel_type, big_endian, packing, predictor, tile, rows };
                        let bytes = build(&[page(&expected, width, height, storage)], big_endian, big_tiff);
                        let image = read_bytes(&bytes).unwrap_or_else(|e| panic!("{storage:?}: {e}"));
                        assert_eq!(image.info.shape, Shape::plane(height, width));
                        assert_eq!(image.info.pixel_type, pixel_type);
                        assert_eq!(image.samples, expected, "{storage:?} BigTIFF {big_tiff}");
                        tried += 1;
                    }
                }
            }
        }
    }
    assert_eq!(tried, 8 * 4 * 5 * (5 + 3) + 2 * 4 * 5 * 3);
}

#[test]
fn integers_round_half_away_from_zero_and_clamp() {
    let folder = Folder::new();
    let values = [0.5, 1.49, 2.5, -0.5, -1.5, 1e9, -1e9, f32::NAN, f32::INFINITY];
    let written = |pixel_type| {
        let mut image = Image::zeros(ImageInfo::new(Shape::plane(1, values.len()), pixel_type)).unwrap();
        image.samples = values.to_vec();
        write_tiff(folder.path("a.tif"), &image, true).unwrap();
        read_tiff(folder.path("a.tif")).unwrap().samples
    };
    assert_eq!(written(PixelType::U8), [1.0, 1.0, 3.0, 0.0, 0.0, 255.0, 0.0, 0.0, 255.0]);
    assert_eq!(written(PixelType::I16), [1.0, 1.0, 3.0, -1.0, -2.0, 32767.0, -32768.0, 0.0, 32767.0]);
    let floats = written(PixelType::F32);
    assert!(floats[7].is_nan());
    assert_eq!(floats[8], f32::INFINITY);
}

#[test]
fn calibration_round_trips() {
    let folder = Folder::new();
    for (size, step, interval) in
        [(0.065, 0.2, 1.5), (0.1083, 0.333_333_3, 0.001), (1.0, 5.0, 60.0), (0.000_123, 12.0, 3e-5)]
    {
        let mut image = image(Shape { t: 2, c: 1, z: 3, y: 4, x: 5 }, PixelType::F32, 1);
        image.info.pixel_size_um = Some(size);
        image.info.z_step_um = Some(step);
        image.info.frame_interval_s = Some(interval);
        write_tiff(folder.path("a.tif"), &image, true).unwrap();
        let info = read_tiff(folder.path("a.tif")).unwrap().info;
        assert!((info.pixel_size_um.unwrap() / size - 1.0).abs() < 1e-12);
        assert_eq!(info.z_step_um, Some(step));
        assert_eq!(info.frame_interval_s, Some(interval));
    }
    let mut image = image(Shape::plane(4, 5), PixelType::U8, 1);
    for size in [None, Some(0.0), Some(f64::NAN), Some(-1.0), Some(1e-20)] {
        image.info.pixel_size_um = size;
        write_tiff(folder.path("a.tif"), &image, true).unwrap();
        assert_eq!(read_tiff(folder.path("a.tif")).unwrap().info.pixel_size_um, None);
    }
}

// ---- What the pages are.

#[test]
fn pixels_that_are_not_square_keep_their_sizes() {
    let folder = Folder::new();
    let ome = r#"<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0"
        DimensionOrder="XYCZT" Type="float" SizeX="4" SizeY="3" SizeZ="1" SizeC="1" SizeT="1" PhysicalSizeX="0.1"
        PhysicalSizeY="0.5"><TiffData/></Pixels></Image></OME>"#;
    for ome in [None, Some(ome)] {
        let mut image = image(Shape::plane(3, 4), PixelType::F32, 1);
        (image.info.pixel_size_um, image.info.pixel_size_y_um) = (Some(0.1), Some(0.5));
        image.info.extra.ome_xml = ome.map(str::to_owned);
        write_tiff(folder.path("a.tif"), &image, true).unwrap();
        let info = read_tiff(folder.path("a.tif")).unwrap().info;
        let (x, y) = (info.pixel_size_um.unwrap(), info.pixel_size_y_um.unwrap());
        assert!((x / 0.1 - 1.0).abs() < 1e-9 && (y / 0.5 - 1.0).abs() < 1e-9, "{x} {y}");
    }
}

#[test]
fn calibration_is_read_in_any_unit() {
    let cases: [(&str, Option<u16>, Option<f64>); 14] = [
        ("ImageJ=1.53t\nunit=micron\n", None, Some(0.25)),
        ("ImageJ=1.53t\nunit=um\n", Some(1), Some(0.25)),
        ("ImageJ=1.53t\nunit=\\u00B5m\n", None, Some(0.25)),
        ("ImageJ=1.53t\r\nunit=µm\r\n", None, Some(0.25)),
        ("ImageJ=1.53t\nunit=nm\n", None, Some(0.000_25)),
        ("ImageJ=1.53t\nunit=mm\n", None, Some(250.0)),
        ("ImageJ=1.53t\nunit=cm\n", None, Some(2500.0)),
        ("ImageJ=1.53t\nunit=inch\n", None, Some(6350.0)),
        ("ImageJ=1.53t\nunit=pixel\n", None, None),
        ("ImageJ=1.53t\n", None, None),
        ("", None, None),
        // Printers' resolutions say nothing of a microscope.
        ("", Some(2), None),
        ("", Some(3), None),
        ("some words", Some(1), None),
    ];
    for (text, unit, expected) in cases {
        let mut page = Page::plain(2, 2, &[1, 2, 3, 4]).text(text).with(282, Value::Rational(4, 1));
        if let Some(unit) = unit {
            page = page.with(296, Value::Short(unit));
        }
        let found = read_bytes(&build(&[page], false, false)).unwrap().info.pixel_size_um;
        match expected {
            Some(size) => assert!((found.unwrap() / size - 1.0).abs() < 1e-12, "{text:?}: {found:?}"),
            None => assert_eq!(found, None, "{text:?}"),
        }
    }
    // Latin-1, as ImageJ wrote `µ` before.
    let page = Page::plain(1, 1, &[1]).with(270, Value::Bytes(b"ImageJ=1.40\nunit=\xb5m\n\0".to_vec()));
    let page = page.with(282, Value::Rational(10, 1));
    assert_eq!(read_bytes(&build(&[page], true, false)).unwrap().info.pixel_size_um, Some(0.1));
    // A plain TIFF with a resolution that a microscope can have: 10^5 pixels a centimetre.
    let page = Page::plain(1, 1, &[1]).with(282, Value::Rational(100_000, 1)).with(296, Value::Short(3));
    assert_eq!(read_bytes(&build(&[page], true, false)).unwrap().info.pixel_size_um, Some(0.1));
    let zero = Page::plain(1, 1, &[1]).text("ImageJ=1.53t\nunit=um\n").with(282, Value::Rational(1, 0));
    assert_eq!(read_bytes(&build(&[zero], true, false)).unwrap().info.pixel_size_um, None);
}

#[test]
fn frame_intervals_are_read_in_any_unit() {
    let interval = |text: &str| read_bytes(&with_text(numbered(1), text)).unwrap().info.frame_interval_s;
    for (unit, seconds) in [("", 1.0), ("tunit=sec\n", 1.0), ("tunit=ms\n", 1e-3), ("tunit=hr\n", 3600.0)] {
        assert_eq!(interval(&format!("ImageJ=1.53t\nfinterval=2\n{unit}")), Some(2.0 * seconds), "{unit}");
    }
    for (unit, seconds) in [("\\u00B5s", 1e-6), ("usec", 1e-6), ("ns", 1e-9), ("min", 60.0), ("days", 86_400.0)] {
        assert_eq!(interval(&format!("ImageJ=1.53t\nfinterval=2\ntunit={unit}\n")), Some(2.0 * seconds), "{unit}");
    }
    assert_eq!(interval("ImageJ=1.53t\nfinterval=2\ntunit=moons\n"), None);
    for (unit, seconds) in [("ms", 1e-3), ("µs", 1e-6), ("d", 86_400.0)] {
        let text = format!(
            r#"<OME><Image><Pixels SizeX="1" SizeY="1" SizeZ="1" SizeC="1" SizeT="1" TimeIncrement="2"
             TimeIncrementUnit="{unit}"/></Image></OME>"#
        );
        assert_eq!(interval(&text), Some(2.0 * seconds), "{unit}");
    }
}

#[test]
fn a_unit_that_is_not_known_keeps_its_numbers() {
    let folder = Folder::new();
    for unit in ["", "unit=pixel\n", "unit=parsec\nzunit=mile\n"] {
        let text = format!("ImageJ=1.53t\nimages=3\nslices=3\n{unit}spacing=3.5\n");
        let mut pages = numbered(3);
        pages[0] = pages[0].clone().text(&text).with(282, Value::Rational(4, 1)).with(283, Value::Rational(2, 1));
        let mut image = read_bytes(&build(&pages, false, false)).unwrap();
        assert_eq!((image.info.pixel_size_um, image.info.z_step_um), (None, None));
        write_tiff(folder.path("a.tif"), &image, true).unwrap();
        let back = read_tiff(folder.path("a.tif")).unwrap();
        let grid = back.info.extra.other_grid.clone().unwrap();
        assert_eq!(back.info.extra.other_grid, image.info.extra.other_grid);
        assert_eq!((grid.pixels_per_unit, grid.spacing), ([2.0, 4.0], Some(3.5)), "{unit}");
        assert_eq!(grid.units.len(), unit.lines().count());
        // Twice as many pixels a unit on a grid that is twice as fine; and a length that is known is the one that counts.
        let model = mdr::Model::from_bytes("twice", &common::upsample2()).unwrap();
        let info = mdr::restore::output_info(&model, &image.info, &mdr::RestoreOptions::default()).unwrap();
        assert_eq!(info.extra.other_grid.unwrap().pixels_per_unit, [4.0, 8.0]);
        image.info.pixel_size_um = Some(0.5);
        write_tiff(folder.path("a.tif"), &image, true).unwrap();
        let back = read_tiff(folder.path("a.tif")).unwrap();
        assert_eq!((back.info.pixel_size_um, back.info.extra.other_grid), (Some(0.5), None));
    }
    // A printer's resolution.
    let page = Page::plain(1, 1, &[1]).text("ImageJ=1.53t\n").with(282, Value::Rational(72, 1));
    let grid = |page: Page| read_bytes(&build(&[page], false, false)).unwrap().info.extra.other_grid;
    assert_eq!(grid(page.clone().with(296, Value::Short(2))), None);
    assert_eq!(grid(page.with(296, Value::Short(1))).unwrap().pixels_per_unit, [1.0, 72.0]);
}

#[test]
fn imagej_has_another_unit_along_y() {
    let folder = Folder::new();
    let read = |text: &str| {
        let page =
            Page::plain(1, 1, &[1]).text(text).with(282, Value::Rational(4, 1)).with(283, Value::Rational(500, 1));
        read_bytes(&build(&[page], false, false)).unwrap()
    };
    let info = read("ImageJ=1.53t\nunit=micron\nyunit=nm\n").info;
    assert_eq!((info.pixel_size_um, info.pixel_height_um(), info.extra.y_unit), (Some(0.25), Some(2e-6), None));
    let info = read("ImageJ=1.53t\nunit=pixel\nyunit=micron\n").info;
    assert_eq!((info.pixel_size_um, info.pixel_height_um()), (None, None));
    // A line scan: 500 rows a second.
    let scan = read("ImageJ=1.53t\nunit=micron\nyunit=sec\n");
    write_tiff(folder.path("a.tif"), &scan, true).unwrap();
    for info in [&scan.info, &read_tiff(folder.path("a.tif")).unwrap().info] {
        assert_eq!((info.pixel_size_um, info.pixel_height_um()), (Some(0.25), None));
        assert_eq!(info.extra.y_unit, Some((500.0, "sec".into())));
    }
}

/// Pages of one pixel, numbered from 0.
fn numbered(count: u8) -> Vec<Page> {
    (0..count).map(|i| Page::plain(1, 1, &[i])).collect()
}

fn with_text(mut pages: Vec<Page>, text: &str) -> Vec<u8> {
    pages[0] = pages[0].clone().text(text);
    build(&pages, false, false)
}

#[test]
fn imagej_hyperstack_runs_channels_first() {
    let text = "ImageJ=1.53t\nimages=12\nchannels=2\nslices=3\nframes=2\nhyperstack=true\nunit=um\nspacing=-0.5\n\
                finterval=2\ntunit=min\nmode=color\nmin=3\nmax=9\n";
    let image = read_bytes(&with_text(numbered(12), text)).unwrap();
    assert_eq!(image.info.axes.as_str(), "TZCYX");
    assert_eq!(image.info.shape, Shape { t: 2, c: 2, z: 3, y: 1, x: 1 });
    // T, C, Z: page = (t * 3 + z) * 2 + c.
    assert_eq!(image.samples, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0]);
    assert_eq!((image.info.z_step_um, image.info.frame_interval_s), (Some(0.5), Some(120.0)));
    let carried: Vec<_> = image.info.extra.imagej.iter().map(|(k, v)| format!("{k}={v}")).collect();
    assert_eq!(carried, ["mode=color", "min=3", "max=9"]);
}

#[test]
fn imagej_planes_without_directories_are_read() {
    let page = Page::plain(2, 1, &[1, 2, 3, 4, 5, 6]).text("ImageJ=1.53t\nimages=3\nframes=3\n");
    let bytes = build(std::slice::from_ref(&page), false, false);
    let image = read_bytes(&bytes).unwrap();
    assert_eq!((image.info.axes.as_str(), image.samples), ("TYX", vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    // One plane more than the file can hold.
    let many = page.text("ImageJ=1.53t\nimages=3000000000\n");
    assert!(matches!(refusal(&build(&[many], false, false)).0, Error::BadTiff { .. }));
}

#[test]
fn metamorph_planes_without_directories_are_read() {
    let page = |count: usize| Page::plain(2, 1, &[1, 2, 3, 4, 5, 6]).with(33629, Value::Longs(vec![7; count]));
    let image = read_bytes(&build(&[page(3)], false, false)).unwrap();
    assert_eq!((image.info.axes.as_str(), image.samples), ("ZYX", vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]));
    let many = Page::plain(1000, 1, &[0; 1000]).with(33629, Value::Longs(vec![7; 30]));
    assert!(matches!(refusal(&build(&[many], false, false)).0, Error::BadTiff { .. }));
    // Saved anew, page by page.
    let image = read_bytes(&build(&[page(3), page(3)], false, false)).unwrap();
    assert_eq!(image.samples, [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn tiles_that_a_sparse_file_leaves_out_are_zeros() {
    for compression in [1, 32773] {
        let tile = |value: u8| pack(&[value; 256], if compression == 1 { Packing::None } else { Packing::PackBits });
        let mut page = Page::plain(40, 16, &[]).with(259, Value::Short(compression));
        page = page.with(322, Value::Long(16)).with(323, Value::Long(16));
        (page.chunks, page.tiled) = (vec![tile(7), vec![], tile(9)], true);
        let found = read_bytes(&build(&[page], false, false)).unwrap().samples;
        let expected = (0..16 * 40).map(|i| [7.0, 0.0, 9.0][i % 40 / 16]);
        assert!(found.into_iter().eq(expected), "compression {compression}");
    }
}

#[test]
fn a_deflated_strip_is_expanded_once() {
    let folder = Folder::new();
    let (width, height) = (2000, 1000);
    let mut page = Page::plain(width, height, &[]).with(259, Value::Short(8));
    page.chunks = vec![pack(&vec![7; (width * height) as usize], Packing::Deflate)];
    let path = folder.file("a.tif", &build(&[page], false, false));
    let mut reader = TiffReader::open(&path, None).unwrap();
    let mut samples = vec![0.0; (width * height) as usize];
    let (outcome, peak) = peak_bytes(|| reader.read_plane(PlaneIndex { t: 0, c: 0, z: 0 }, &mut samples));
    outcome.unwrap();
    assert!(samples.iter().all(|&sample| sample == 7.0));
    assert!(peak < 2_000_000 * 3 / 2, "{peak} bytes for a strip of 2 MB");
}

#[cfg(unix)]
#[test]
fn a_pipe_is_not_waited_for() {
    let folder = Folder::new();
    let pipe = folder.path("pipe.tif");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let error = read_tiff(&pipe).unwrap_err();
    assert!(error.to_string().contains("a device or pipe"), "{error}");
}

#[test]
fn a_name_as_long_as_any_is_written() {
    let folder = Folder::new();
    let image = image(Shape::plane(2, 2), PixelType::U8, 0);
    for length in [239, 240, 255] {
        let path = folder.path(&format!("{}.tif", "a".repeat(length - 4)));
        write_tiff(&path, &image, false).unwrap();
        assert_eq!(read_tiff(&path).unwrap().samples, image.samples);
    }
}

#[test]
fn imagej_palettes_are_display_only() {
    let palette = Page::plain(2, 1, &[3, 4]).with(262, Value::Short(3)).text("ImageJ=1.53t\n");
    assert_eq!(read_bytes(&build(&[palette], false, false)).unwrap().samples, [3.0, 4.0]);
    let inverted = Page::plain(2, 1, &[3, 4]).with(262, Value::Short(0));
    assert_eq!(read_bytes(&build(&[inverted], false, false)).unwrap().samples, [3.0, 4.0]);
}

#[test]
fn tifffile_shape_is_read() {
    let image = read_bytes(&with_text(numbered(6), r#"{"shape": [2, 3, 1, 1], "axes": "CTYX"}"#)).unwrap();
    assert_eq!(image.info.axes.as_str(), "CTYX");
    assert_eq!(image.samples, [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    let image = read_bytes(&with_text(numbered(6), r#"{"shape": [2, 3, 1, 1]}"#)).unwrap();
    assert_eq!((image.info.axes.as_str(), image.info.shape.z), ("ZYX", 6));
    // Axes that mdr does not know are Z or T, and channels stay channels.
    for (axes, expected) in [("PCYX", "ZCYX"), ("CPYX", "CZYX"), ("PZYX", "TZYX"), ("PSYX", "ZYX")] {
        let image = read_bytes(&with_text(numbered(6), &format!(r#"{{"shape": [2, 3, 1, 1], "axes": "{axes}"}}"#)));
        assert_eq!(image.unwrap().info.axes.as_str(), expected, "{axes}");
    }
    let (error, text) = refusal(&with_text(numbered(8), r#"{"shape": [2, 2, 2, 1, 1], "axes": "TPZYX"}"#));
    assert!(matches!(error, Error::InvalidOption(_)) && text.contains("T 2, ? 2, Z 2"), "{text}");
}

/// `for frame in frames: file.write(frame)`, or `imwrite(append=True)`.
#[test]
fn pages_that_tifffile_has_written_one_by_one_are_a_stack() {
    let folder = Folder::new();
    for text in [r#"{"shape": [1, 1]}"#, r#"{"shape": [1, 1, 1], "axes": "ZYX"}"#] {
        let pages: Vec<Page> = numbered(5).into_iter().map(|page| page.text(text)).collect();
        let path = folder.file("a.tif", &build(&pages, false, false));
        let image = read_tiff(&path).unwrap();
        assert_eq!((image.info.axes.as_str(), image.samples), ("ZYX", vec![0.0, 1.0, 2.0, 3.0, 4.0]));
        let times = TiffReader::open(&path, Some(&Axes::parse("TYX").unwrap())).unwrap();
        assert_eq!((times.info().axes.as_str(), times.info().shape.t), ("TYX", 5));
    }
    let (_, text) = refusal(&with_text(numbered(5), r#"{"shape": [6, 1, 1]}"#));
    assert!(text.contains("contradict"), "{text}");
}

#[test]
fn axes_name_what_the_file_leaves_open() {
    let folder = Folder::new();
    let open = |bytes: &[u8], axes: &str| {
        let path = folder.file("a.tif", bytes);
        let mut reader = TiffReader::open(&path, Some(&Axes::parse(axes).unwrap()))?;
        Image::read(&mut reader)
    };
    let plain = build(&numbered(6), false, false);
    assert_eq!(read_bytes(&plain).unwrap().info.axes.as_str(), "ZYX");
    for (axes, shape) in [("TYX", (6, 1, 1)), ("CYX", (1, 6, 1)), ("ZYX", (1, 1, 6))] {
        let image = open(&plain, axes).unwrap();
        let found = (image.info.shape.t, image.info.shape.c, image.info.shape.z);
        assert_eq!((image.info.axes.as_str(), found), (axes, shape));
        assert_eq!(image.samples, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
    for axes in ["YX", "CZYX", "TZCYX"] {
        let error = open(&plain, axes).unwrap_err();
        assert!(matches!(error, Error::InvalidOption(_)), "{error}");
        assert!(error.to_string().contains("6 pages"), "{error}");
    }
    // Lengths without names, and names that are replaced, slowest first.
    for text in [r#"{"shape": [2, 3, 1, 1]}"#, "ImageJ=1.53t\nimages=6\nframes=2\nchannels=3\n"] {
        let image = open(&with_text(numbered(6), text), "CZYX").unwrap();
        assert_eq!(image.info.shape, Shape { t: 1, c: 2, z: 3, y: 1, x: 1 });
        assert_eq!(image.samples, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }
    // The file's names stand where the caller gives the same ones.
    let text = "ImageJ=1.53t\nimages=6\nslices=2\nchannels=3\n";
    let image = open(&with_text(numbered(6), text), "TCZYX").unwrap();
    assert_eq!(image.info.shape, Shape { t: 1, c: 3, z: 2, y: 1, x: 1 });
    assert_eq!((image.info.axes.as_str(), image.samples), ("TZCYX", vec![0.0, 3.0, 1.0, 4.0, 2.0, 5.0]));
    assert!(matches!(open(&with_text(numbered(6), text), "TYX"), Err(Error::InvalidOption(_))));
    let one = open(&build(&numbered(1), false, false), "TCZYX").unwrap();
    assert_eq!((one.info.axes.as_str(), one.info.shape), ("TCZYX", Shape::plane(1, 1)));
}

#[test]
fn reduced_copies_are_skipped() {
    let thumbnail = Page::plain(1, 1, &[9]).with(254, Value::Long(1));
    let pages = [Page::plain(2, 1, &[1, 2]), thumbnail, Page::plain(2, 1, &[3, 4])];
    assert_eq!(read_bytes(&build(&pages, false, false)).unwrap().samples, [1.0, 2.0, 3.0, 4.0]);
}

// ---- Metadata that is carried.

/// ImageJ's blocks of the types `info`, `labl` (2) and `rang` in this byte order.
fn imagej_metadata(big_endian: bool) -> ImageJMetadata {
    let order = |mut bytes: Vec<u8>| {
        if !big_endian {
            bytes.reverse();
        }
        bytes
    };
    let utf16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(|unit| order(unit.to_be_bytes().to_vec())).collect() };
    let ranges = [2.0f64, 77.5].iter().flat_map(|value| order(value.to_be_bytes().to_vec())).collect();
    let blocks = [utf16("made by µ"), utf16("one"), utf16("two"), ranges, vec![1, 2, 3]];
    let mut data = order(b"IJIJ".to_vec());
    for (kind, count) in [(b"info", 1u32), (b"labl", 2), (b"rang", 1), (b"over", 1)] {
        data.extend(order(kind.to_vec()));
        data.extend(order(count.to_be_bytes().to_vec()));
    }
    let mut counts = vec![data.len() as u32];
    for block in blocks {
        counts.push(block.len() as u32);
        data.extend(block);
    }
    ImageJMetadata { counts, data, big_endian }
}

#[test]
fn imagej_metadata_is_carried() {
    let folder = Folder::new();
    for big_endian in [false, true] {
        let ImageJMetadata { counts, data, .. } = imagej_metadata(big_endian);
        let first = Page::plain(1, 1, &[0]).text("ImageJ=1.53t\nimages=2\nslices=2\nmode=grayscale\nloop=false\n");
        let first = first.with(50838, Value::Longs(counts)).with(50839, Value::Bytes(data));
        let path = folder.file("a.tif", &build(&[first, Page::plain(1, 1, &[1])], big_endian, false));
        let mut image = read_tiff(&path).unwrap();
        write_tiff(folder.path("b.tif"), &image, true).unwrap();
        let back = read_tiff(folder.path("b.tif")).unwrap();
        assert_eq!(back.info.extra.imagej_metadata, Some(imagej_metadata(false)), "big-endian {big_endian}");
        assert_eq!(back.info.extra.imagej, image.info.extra.imagej);

        image.info.provenance = "restored: yes".into();
        write_tiff(folder.path("b.tif"), &image, true).unwrap();
        let bytes = std::fs::read(folder.path("b.tif")).unwrap();
        let note: Vec<u8> = "made by µ\nrestored: yes".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(bytes.windows(note.len()).any(|window| window == note));
    }
    // Labels go where there are other planes than they label; a note needs no Info to join.
    let mut image = image(Shape { t: 1, c: 1, z: 3, y: 1, x: 1 }, PixelType::U8, 0);
    image.info.extra.imagej_metadata = Some(imagej_metadata(true));
    write_tiff(folder.path("b.tif"), &image, true).unwrap();
    let metadata = read_tiff(folder.path("b.tif")).unwrap().info.extra.imagej_metadata.unwrap();
    assert_eq!(metadata.counts[1..], [18, 16, 3]);
    image.info.extra = Extra::default();
    image.info.provenance = "note".into();
    write_tiff(folder.path("b.tif"), &image, true).unwrap();
    let metadata = read_tiff(folder.path("b.tif")).unwrap().info.extra.imagej_metadata.unwrap();
    assert_eq!(metadata.counts, [12, 8]);
}

/// ImageJ's blocks, little-endian: each kind with the bytes of each of its blocks.
fn blocks(kinds: &[(&[u8; 4], Vec<Vec<u8>>)]) -> ImageJMetadata {
    let mut data = b"JIJI".to_vec();
    for (kind, blocks) in kinds {
        data.extend(kind.iter().rev());
        data.extend((blocks.len() as u32).to_le_bytes());
    }
    let all = || kinds.iter().flat_map(|(_, blocks)| blocks);
    let counts = std::iter::once(data.len()).chain(all().map(Vec::len)).map(|len| len as u32).collect();
    data.extend(all().flatten());
    ImageJMetadata { counts, data, big_endian: false }
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[test]
fn one_channel_keeps_what_is_its_own() {
    let shape = Shape { t: 1, c: 2, z: 2, y: 1, x: 1 };
    let range = |numbers: &[f64]| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<_>>();
    let labels = |list: &[&str]| list.iter().map(|label| utf16(label)).collect::<Vec<_>>();
    let mut image = image(shape, PixelType::U8, 0);
    image.info.extra.imagej = vec![("mode".into(), "composite".into()), ("loop".into(), "false".into())];
    image.info.extra.ome_xml = Some(OME.replace("SizeZ=\"3\"", "SizeZ=\"2\""));
    image.info.extra.imagej_metadata = Some(blocks(&[
        (b"info", vec![utf16("exposure")]),
        (b"labl", labels(&["c0 z0", "c1 z0", "c0 z1", "c1 z1"])),
        (b"rang", vec![range(&[1.0, 2.0, 3.0, 4.0])]),
        (b"luts", vec![vec![5; 768], vec![6; 768]]),
        (b"prop", vec![utf16("stain"), utf16("GFP")]),
    ]));
    let model = mdr::Model::from_bytes("same", &common::identity()).unwrap();
    let options = mdr::RestoreOptions { channel: Some(1), ..Default::default() };
    let extra = mdr::restore::output_info(&model, &image.info, &options).unwrap().extra;
    assert_eq!(extra.imagej, [("loop".into(), "false".into())]);
    let expected = blocks(&[
        (b"info", vec![utf16("exposure")]),
        (b"labl", labels(&["c1 z0", "c1 z1"])),
        (b"rang", vec![range(&[3.0, 4.0])]),
        (b"luts", vec![vec![6; 768]]),
        (b"prop", vec![utf16("stain"), utf16("GFP")]),
    ]);
    assert_eq!(extra.imagej_metadata, Some(expected));
    let xml = extra.ome_xml.unwrap();
    assert!(xml.contains("SizeC=\"1\"") && xml.contains("GFP") && !xml.contains("DAPI"), "{xml}");
    assert!(!xml.contains("<Plane"), "the plane was the other channel's: {xml}");
    let first = mdr::RestoreOptions { channel: Some(0), ..Default::default() };
    let xml = mdr::restore::output_info(&model, &image.info, &first).unwrap().extra.ome_xml.unwrap();
    assert!(xml.contains("DAPI") && !xml.contains("GFP") && xml.contains("DeltaT=\"0.5\""), "{xml}");
}

#[test]
fn labels_go_with_their_planes() {
    let folder = Folder::new();
    let labels = |order: [usize; 6]| blocks(&[(b"labl", order.map(|i| utf16(&format!("page {i}"))).to_vec())]);
    let ImageJMetadata { counts, data, .. } = labels([0, 1, 2, 3, 4, 5]);
    let mut pages = numbered(6);
    pages[0] = pages[0].clone().text("ImageJ=1.53t\nimages=6\nframes=2\nslices=3\n");
    pages[0] = pages[0].clone().with(50838, Value::Longs(counts)).with(50839, Value::Bytes(data));
    let path = folder.file("a.tif", &build(&pages, false, false));
    for (axes, order) in [("TZYX", [0, 1, 2, 3, 4, 5]), ("CZYX", [0, 3, 1, 4, 2, 5])] {
        let mut reader = TiffReader::open(&path, Some(&Axes::parse(axes).unwrap())).unwrap();
        let image = Image::read(&mut reader).unwrap();
        write_tiff(folder.path("b.tif"), &image, true).unwrap();
        let back = read_tiff(folder.path("b.tif")).unwrap();
        assert_eq!(back.info.extra.imagej_metadata, Some(labels(order)), "{axes}");
        assert_eq!(back.samples, image.samples);
    }
}

const OME: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:11111111-1111-1111-1111-111111111111">
<Instrument ID="Instrument:0"><Objective ID="Objective:0" LensNA="1.4"/></Instrument>
<Image ID="Image:0"><Description>cells &amp; nuclei</Description><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8"
 SizeX="1" SizeY="1" SizeZ="3" SizeC="2" SizeT="1" PhysicalSizeX="65" PhysicalSizeXUnit="nm" PhysicalSizeY="65"
 PhysicalSizeYUnit="nm" PhysicalSizeZ="0.3" TimeIncrement="500" TimeIncrementUnit="ms" BigEndian="true">
<Channel ID="Channel:0" Name="DAPI &gt;"/><Channel ID="Channel:1" Name="GFP"/>
<TiffData FirstC="1" IFD="0" PlaneCount="3"><UUID FileName="a.tif">urn:uuid:11111111-1111-1111-1111-111111111111</UUID></TiffData>
<TiffData FirstC="0" FirstZ="0" IFD="5"/><TiffData FirstZ="1" IFD="4"/><TiffData FirstZ="2" IFD="3"/>
<Plane TheZ="0" TheC="0" TheT="0" DeltaT="0.5"/></Pixels><ROIRef ID="ROI:0"/></Image>
<ROI ID="ROI:0"><Union><Point ID="Shape:0" X="0.5" Y="0.5"/></Union></ROI></OME>"#;

#[test]
fn ome_tiff_round_trips() {
    let folder = Folder::new();
    let path = folder.file("a.tif", &with_text(numbered(6), OME));
    let mut image = read_tiff(&path).unwrap();
    assert_eq!(image.info.axes.as_str(), "CZYX");
    assert_eq!(image.info.shape, Shape { t: 1, c: 2, z: 3, y: 1, x: 1 });
    assert_eq!(image.samples, [5.0, 4.0, 3.0, 0.0, 1.0, 2.0]);
    let calibration = (image.info.pixel_size_um, image.info.z_step_um, image.info.frame_interval_s);
    assert_eq!(calibration, (Some(0.065), Some(0.3), Some(0.5)));

    image.info.pixel_type = PixelType::F32;
    image.info.provenance = "restored <by> mdr".into();
    write_tiff(folder.path("b.tif"), &image, false).unwrap();
    let back = read_tiff(folder.path("b.tif")).unwrap();
    assert_eq!(back.samples, image.samples);
    assert_eq!((back.info.axes.as_str(), back.info.shape), ("ZCYX", image.info.shape));
    assert_eq!((back.info.pixel_size_um, back.info.z_step_um, back.info.frame_interval_s), calibration);
    let xml = back.info.extra.ome_xml.unwrap();
    for kept in [
        "LensNA=\"1.4\"",
        "Name=\"DAPI &gt;\"",
        "DeltaT=\"0.5\"",
        "<ROIRef ID=\"ROI:0\"/></Image>",
        "<Point ID=\"Shape:0\"",
        "Type=\"float\"",
        "cells &amp; nuclei\nrestored &lt;by&gt; mdr</Description>",
    ] {
        assert!(xml.contains(kept), "{kept} not in {xml}");
    }
    assert!(!xml.contains("UUID") && !xml.contains("uint8") && !xml.contains("\"nm\""), "{xml}");

    // Another number of Z planes: what belonged to planes goes, the channels stay.
    let mut other =
        Image::zeros(ImageInfo { shape: Shape { z: 5, ..image.info.shape }, ..image.info.clone() }).unwrap();
    other.info.z_step_um = Some(0.065);
    write_tiff(folder.path("c.tif"), &other, false).unwrap();
    let back = read_tiff(folder.path("c.tif")).unwrap();
    assert_eq!((back.info.shape.z, back.info.z_step_um), (5, Some(0.065)));
    let xml = back.info.extra.ome_xml.unwrap();
    assert!(!xml.contains("<Plane") && !xml.contains("ROI") && xml.contains("GFP"), "{xml}");
    other = Image::zeros(ImageInfo { shape: Shape { c: 1, ..image.info.shape }, ..image.info.clone() }).unwrap();
    write_tiff(folder.path("d.tif"), &other, false).unwrap();
    assert!(!read_tiff(folder.path("d.tif")).unwrap().info.extra.ome_xml.unwrap().contains("<Channel"));
}

#[test]
fn ome_tiff_of_several_files_is_refused() {
    let bytes = with_text(numbered(6), &OME.replacen("a.tif\">urn:uuid:1", "other.tif\">urn:uuid:2", 1));
    let (error, text) = refusal(&bytes);
    assert!(matches!(error, Error::UnsupportedTiff { .. }) && text.contains("other.tif"), "{text}");
    let two = OME.replace("</Image>", "</Image><Image ID=\"Image:1\"/>");
    assert!(refusal(&with_text(numbered(6), &two)).1.contains("2 images"));
    let binary = r#"<OME><BinaryOnly MetadataFile="m.companion.ome"/></OME>"#;
    assert!(refusal(&with_text(numbered(1), binary)).1.contains("m.companion.ome"));
    let missing = refusal(&with_text(numbered(5), OME)).1;
    assert!(missing.contains("5 pages"), "{missing}");
    for broken in [
        OME.replace("SizeZ=\"3\"", "SizeZ=\"99999999999\""),
        OME.replace("XYZCT", "XYZZT"),
        OME.replace("<Image", "<Imag"),
    ] {
        assert!(matches!(refusal(&with_text(numbered(6), &broken)).0, Error::BadTiff { .. }));
    }
}

// ---- The writer leaves whole files or none.

#[test]
fn an_existing_file_is_kept() {
    let folder = Folder::new();
    let path = folder.file("a.tif", b"precious");
    let image = image(Shape::plane(2, 2), PixelType::U8, 0);
    let error = write_tiff(&path, &image, false).unwrap_err();
    assert!(matches!(&error, Error::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists));
    assert!(error.to_string().contains("exists"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    assert_eq!(folder.names(), ["a.tif"]);
    write_tiff(&path, &image, true).unwrap();
    assert_eq!(read_tiff(&path).unwrap().samples, image.samples);
    // One that appears while the planes are written is kept too.
    let other = folder.path("b.tif");
    let mut writer = TiffWriter::create(&other, &image.info, false).unwrap();
    writer.write_plane(PlaneIndex { t: 0, c: 0, z: 0 }, &image.samples).unwrap();
    std::fs::write(&other, b"precious").unwrap();
    assert!(matches!(writer.finish(), Err(Error::Io { .. })));
    assert_eq!(std::fs::read(&other).unwrap(), b"precious");
}

#[test]
fn an_unfinished_file_vanishes() {
    let folder = Folder::new();
    let info = ImageInfo::new(Shape { t: 1, c: 2, z: 2, y: 2, x: 2 }, PixelType::U8);
    let mut writer = TiffWriter::create(&folder.path("a.tif"), &info, false).unwrap();
    let names = folder.names();
    assert!(names.len() == 1 && names[0].starts_with(".a.tif.partial-"), "{names:?}");
    writer.write_plane(PlaneIndex { t: 0, c: 0, z: 0 }, &[1.0; 4]).unwrap();
    // C runs fastest.
    let out_of_order = writer.write_plane(PlaneIndex { t: 0, c: 0, z: 1 }, &[1.0; 4]);
    assert!(matches!(out_of_order, Err(Error::ShapeMismatch { .. })));
    let short = writer.write_plane(PlaneIndex { t: 0, c: 1, z: 0 }, &[1.0; 3]);
    assert!(matches!(short, Err(Error::ShapeMismatch { .. })));
    assert!(matches!(writer.finish(), Err(Error::ShapeMismatch { .. })));
    assert_eq!(folder.names(), [""; 0]);
    drop(TiffWriter::create(&folder.path("a.tif"), &info, false).unwrap());
    assert_eq!(folder.names(), [""; 0]);
    let missing = TiffWriter::create(&folder.path("no/such/a.tif"), &info, false);
    assert!(matches!(missing, Err(Error::Io { .. })));
    let empty = ImageInfo::new(Shape::plane(0, 3), PixelType::U8);
    assert!(matches!(TiffWriter::create(&folder.path("a.tif"), &empty, false), Err(Error::InvalidOption(_))));
    let huge = ImageInfo::new(Shape { t: usize::MAX, c: 9, z: 9, y: 9, x: 9 }, PixelType::U8);
    assert!(matches!(TiffWriter::create(&folder.path("a.tif"), &huge, false), Err(Error::InvalidOption(_))));
}

#[cfg(unix)]
#[test]
fn only_regular_files_are_replaced_and_links_stay_links() {
    use std::os::unix::fs::{FileTypeExt, symlink};
    let folder = Folder::new();
    let image = image(Shape::plane(2, 2), PixelType::U8, 0);
    let socket = folder.path("socket");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    symlink("socket", folder.path("to socket")).unwrap();
    for name in ["socket", "to socket"] {
        for force in [false, true] {
            let error = write_tiff(folder.path(name), &image, force).unwrap_err();
            assert!(error.to_string().contains("a device, pipe or socket"), "{error}");
        }
    }
    assert!(socket.symlink_metadata().unwrap().file_type().is_socket());

    std::fs::create_dir(folder.path("elsewhere")).unwrap();
    let target = folder.file("elsewhere/target.tif", b"old");
    let link = folder.path("link.tif");
    symlink("elsewhere/target.tif", &link).unwrap();
    assert!(write_tiff(&link, &image, false).unwrap_err().to_string().contains("exists"));
    // The temporary file lies beside the target, which may be on another file system than the link.
    let writer = TiffWriter::create(&link, &image.info, true).unwrap();
    assert_eq!(std::fs::read_dir(folder.path("elsewhere")).unwrap().count(), 2);
    drop(writer);
    assert_eq!(std::fs::read(&target).unwrap(), b"old");
    write_tiff(&link, &image, true).unwrap();
    assert!(link.is_symlink() && !target.is_symlink());
    assert_eq!(read_tiff(&target).unwrap().samples, image.samples);
    // Of a link that leads nowhere nothing is lost.
    std::fs::remove_file(&target).unwrap();
    write_tiff(&link, &image, true).unwrap();
    assert!(!link.is_symlink());
}

#[cfg(unix)]
#[test]
fn permissions_are_those_of_any_new_file() {
    use std::os::unix::fs::PermissionsExt;
    let folder = Folder::new();
    write_tiff(folder.path("a.tif"), &image(Shape::plane(2, 2), PixelType::U8, 0), false).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    assert_eq!(mode(&folder.path("a.tif")), mode(&folder.file("b", b"")));
}

// ---- Files that are no good.

#[test]
fn what_is_no_tiff_is_refused() {
    for bytes in [&b""[..], b"I", b"II", b"\x89PNG\r\n\x1a\n and so on", b"II*\0", b"II*\0\0\0\0\0", b"II+\0\x08\0\0\0"]
    {
        let (error, text) = refusal(bytes);
        assert!(matches!(error, Error::BadTiff { .. }), "{text}");
    }
    let folder = Folder::new();
    assert!(matches!(read_tiff(folder.path("none.tif")), Err(Error::Io { .. })));
    assert!(matches!(read_tiff(&folder.0), Err(Error::Io { .. })));
}

#[test]
fn what_is_unsupported_is_named() {
    let page = || Page::plain(2, 1, &[1, 2, 3, 4, 5, 6]);
    let cases = [
        (page().with(259, Value::Short(7)), "259) is 7 (JPEG)"),
        (page().with(259, Value::Short(6)), "(old JPEG)"),
        (page().with(259, Value::Short(50001)), "(WebP)"),
        (page().with(259, Value::Short(4)), "(CCITT fax)"),
        (page().with(259, Value::Short(34712)), "(JPEG 2000)"),
        (page().with(262, Value::Short(2)).with(277, Value::Short(3)), "262) is 2 (RGB)"),
        (page().with(262, Value::Short(3)), "262) is 3 (palette)"),
        (page().with(277, Value::Short(2)), "277) is 2"),
        (page().with(258, Value::Short(1)), "258) is 1"),
        (page().with(258, Value::Short(12)), "258) is 12"),
        (page().with(258, Value::Short(16)).with(339, Value::Short(3)), "258) is 16 with SampleFormat (tag 339) 3"),
        (page().with(258, Value::Short(64)).with(339, Value::Short(6)), "(complex)"),
        (page().with(259, Value::Short(5)).with(317, Value::Short(3)), "317) is 3"),
        (page().with(259, Value::Short(5)).with(266, Value::Short(2)), "266) is 2"),
        (page().with(266, Value::Short(2)), "266) is 2"),
        (page().with(32997, Value::Long(3)), "32997) is 3"),
    ];
    for (page, expected) in cases {
        let (error, text) = refusal(&build(&[page], false, false));
        assert!(matches!(error, Error::UnsupportedTiff { .. }) && text.contains(expected), "{expected}: {text}");
    }
    let (error, text) = refusal(&build(&[page(), Page::plain(3, 1, &[1, 2, 3])], false, false));
    assert!(matches!(error, Error::UnsupportedTiff { .. }) && text.contains("page 2 is 3x1 U8"), "{text}");
}

#[test]
fn a_header_that_claims_too_much_is_refused_before_allocating() {
    for (compression, predictor) in [(1, 1), (5, 2), (8, 1), (32773, 1), (50000, 1)] {
        for tiled in [false, true] {
            let mut page = Page::plain(100_000, 100_000, &[0; 700]).with(259, Value::Short(compression));
            page = page.with(317, Value::Short(predictor));
            if tiled {
                page = page.with(322, Value::Long(100_000)).with(323, Value::Long(100_000));
                page.tiled = true;
            }
            let bytes = build(&[page], false, false);
            assert!(bytes.len() < 1024);
            let ((error, _), peak) = peak_bytes(|| refusal(&bytes));
            assert!(matches!(error, Error::BadTiff { .. }), "{error}");
            assert!(peak < 1 << 20, "{peak} bytes");
        }
    }
}

/// A gigabyte of file, most of which takes no place, that may expand to 2^45 pixels.
#[cfg(unix)]
#[test]
fn an_image_that_no_memory_holds_is_an_error() {
    let folder = Folder::new();
    let page = Page::plain(1 << 23, 1 << 22, &[0; 100]).with(259, Value::Short(50000));
    let path = folder.file("a.tif", &build(&[page], false, false));
    std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(1 << 30).unwrap();
    let error = read_tiff(&path).unwrap_err();
    assert!(matches!(error, Error::InvalidOption(_)) && error.to_string().contains("memory"), "{error}");
}

#[test]
fn directories_in_a_loop_are_refused() {
    let mut bytes = build(&numbered(2), false, false);
    let first = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
    let end = bytes.len();
    bytes[end - 4..].copy_from_slice(&first.to_le_bytes());
    let (error, text) = refusal(&bytes);
    assert!(matches!(error, Error::BadTiff { .. }) && text.contains("loop"), "{text}");
}

/// Small files of every kind.
fn seeds() -> Vec<Vec<u8>> {
    let (width, height) = (20, 18);
    let make = |pixel_type, packing, predictor, tile, big_endian, big_tiff| {
        let samples = samples(pixel_type, width * height, 3);
        let storage = Storage { pixel_type, big_endian, packing, predictor, tile, rows: 7 };
        build(&[page(&samples, width, height, storage)], big_endian, big_tiff)
    };
    let with_metadata = |text: &str, big_endian| {
        let ImageJMetadata { counts, data, .. } = imagej_metadata(big_endian);
        let first = Page::plain(1, 1, &[0]).text(text).with(282, Value::Rational(10, 1));
        let mut pages = numbered(6);
        pages[0] = first.with(50838, Value::Longs(counts)).with(50839, Value::Bytes(data));
        build(&pages, big_endian, false)
    };
    vec![
        make(PixelType::U16, Packing::None, 1, None, false, false),
        make(PixelType::U8, Packing::None, 1, Some((16, 16)), true, false),
        make(PixelType::I16, Packing::Deflate, 2, None, false, false),
        make(PixelType::U16, Packing::Lzw, 2, Some((16, 16)), false, false),
        make(PixelType::F32, Packing::Deflate, 3, None, false, true),
        make(PixelType::U8, Packing::PackBits, 1, None, true, true),
        make(PixelType::U8, Packing::Zstd, 1, None, false, false),
        with_metadata(OME, false),
        with_metadata("ImageJ=1.53t\nimages=6\nchannels=2\nslices=3\nunit=um\nspacing=0.5\n", true),
        build(&[Page::plain(2, 1, &[1, 2, 3, 4, 5, 6]).text("ImageJ=1.53t\nimages=3\nframes=3\n")], false, false),
        build(&numbered(4), false, true),
    ]
}

#[test]
fn a_file_truncated_anywhere_gives_an_error_or_the_same_pixels() {
    let folder = Folder::new();
    for (i, whole) in seeds().iter().enumerate() {
        let expected = read_tiff(folder.file("a.tif", whole)).unwrap();
        let mut refused = 0;
        for len in 0..whole.len() {
            match read_tiff(folder.file("a.tif", &whole[..len])) {
                Ok(image) => assert_eq!(image.samples, expected.samples, "seed {i}, {len} bytes"),
                Err(_) => refused += 1,
            }
        }
        // The directory comes last in these files.
        assert_eq!(refused, whole.len(), "seed {i}");
    }
    // Written by mdr: the directory comes first, the samples last.
    let image = image(Shape::plane(9, 11), PixelType::U16, 4);
    write_tiff(folder.path("b.tif"), &image, false).unwrap();
    let whole = std::fs::read(folder.path("b.tif")).unwrap();
    for len in 0..whole.len() {
        assert!(read_tiff(folder.file("a.tif", &whole[..len])).is_err(), "{len} of {} bytes", whole.len());
    }
}

#[test]
fn damage_within_deflated_data_is_found() {
    let storage = Storage {
        pixel_type: PixelType::U16,
        big_endian: false,
        packing: Packing::Deflate,
        predictor: 2,
        tile: None,
        rows: 9,
    };
    let expected = samples(PixelType::U16, 21 * 18, 5);
    let whole = page(&expected, 21, 18, storage);
    let (mut found, mut flipped) = (0, 0);
    for chunk in 0..whole.chunks.len() {
        for at in 0..whole.chunks[chunk].len() {
            let mut page = page(&expected, 21, 18, storage);
            page.chunks[chunk][at] ^= 0x10;
            flipped += 1;
            match read_bytes(&build(&[page], false, false)) {
                Ok(image) => assert_eq!(image.samples, expected, "byte {at}"),
                Err(_) => found += 1,
            }
        }
    }
    // Not all bits of the first two bytes matter.
    assert!(found >= flipped - 2 * whole.chunks.len(), "{found} of {flipped}");
    // The checksum, the last four bytes, may be missing; what is before them may not.
    for (missing, good) in [(4, true), (7, false)] {
        let mut page = page(&expected, 21, 18, storage);
        let chunk = &mut page.chunks[1];
        chunk.truncate(chunk.len() - missing);
        assert_eq!(read_bytes(&build(&[page], false, false)).is_ok(), good, "{missing} bytes missing");
    }
}

#[test]
fn a_check_finds_what_reading_does_and_passes_what_mdr_does_not_read() {
    let folder = Folder::new();
    for (i, whole) in seeds().iter().enumerate() {
        check_tiff(folder.file("a.tif", whole)).unwrap_or_else(|e| panic!("seed {i}: {e}"));
        for len in [0, whole.len() / 2, whole.len() - 1] {
            assert!(check_tiff(folder.file("a.tif", &whole[..len])).is_err(), "seed {i}, {len} bytes");
        }
    }
    let picture =
        build(&[Page::plain(1, 1, &[1, 2, 3]).with(262, Value::Short(2)).with(277, Value::Short(3))], false, false);
    assert!(matches!(refusal(&picture).0, Error::UnsupportedTiff { .. }));
    check_tiff(folder.file("rgb.tif", &picture)).unwrap();
    assert!(matches!(check_tiff(folder.path("none.tif")), Err(Error::Io { .. })));
}

#[test]
fn mutated_files_give_an_image_or_an_error() {
    let folder = Folder::new();
    let mut rng = Pcg64::seed_from_u64(2026);
    let seeds = seeds();
    let (mut good, mut bad) = (0, 0);
    let start = std::time::Instant::now();
    let rounds = std::env::var("MDR_TIFF_MUTATIONS").map_or(6000, |rounds| rounds.parse().unwrap());
    for round in 0..rounds {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            match rng.random_range(0..6) {
                0 => bytes[at] ^= 1 << rng.random_range(0..8),
                1 => bytes[at] = rng.next_u32() as u8,
                2 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][rng.random_range(0..5)],
                3 => {
                    let value = [0, 1, u32::MAX, i32::MAX as u32, rng.next_u32(), 70_000][rng.random_range(0..6)];
                    let end = bytes.len().min(at + 4);
                    bytes[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                }
                4 => {
                    let from = rng.random_range(0..bytes.len());
                    bytes[at] = bytes[from];
                }
                _ if rng.random_range(0..8) == 0 => bytes.truncate(at.max(1)),
                _ => bytes.swap(at, at / 2),
            }
        }
        let path = folder.file("a.tif", &bytes);
        let then = std::time::Instant::now();
        let (result, peak) = peak_bytes(|| read_tiff(&path));
        assert!(then.elapsed().as_secs() < 5, "round {round} took {:?}", then.elapsed());
        assert!(peak < (64 << 20) + bytes.len() * 16, "round {round}: {peak} bytes");
        match result {
            Ok(image) => {
                assert_eq!(image.samples.len(), image.info.shape.len());
                // What was read can be written.
                let _ = std::fs::remove_file(folder.path("b.tif"));
                write_tiff(folder.path("b.tif"), &image, true).unwrap();
                good += 1;
            }
            Err(_) => bad += 1,
        }
    }
    assert!(good > 500 && bad > 500, "{good} read, {bad} refused: mutations too weak or too strong");
    assert!(start.elapsed().as_millis() < 20 * rounds as u128);
}

#[test]
fn ten_thousand_pages_open_in_linear_time_and_little_memory() {
    let folder = Folder::new();
    let path = folder.file("a.tif", &build(&vec![Page::plain(8, 8, &[7; 64]); 10_000], false, false));
    let start = std::time::Instant::now();
    let (reader, peak) = peak_bytes(|| TiffReader::open(&path, None));
    let mut reader = reader.unwrap();
    assert_eq!(reader.info().shape.z, 10_000);
    assert!(peak < 4 << 20, "{peak} bytes");
    let mut samples = [0.0; 64];
    let (_, peak) = peak_bytes(|| reader.read_plane(PlaneIndex { t: 0, c: 0, z: 9_999 }, &mut samples).unwrap());
    assert_eq!(samples, [7.0; 64]);
    assert!(peak < 1 << 20, "{peak} bytes");
    assert!(start.elapsed().as_secs() < 10);
}
