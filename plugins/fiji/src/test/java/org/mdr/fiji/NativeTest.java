package org.mdr.fiji;

import static org.junit.jupiter.api.Assertions.assertArrayEquals;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertNotEquals;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import ij.ImagePlus;
import java.io.File;
import java.lang.reflect.Method;
import java.lang.reflect.Modifier;
import java.net.URL;
import java.net.URLClassLoader;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Set;
import java.util.TreeSet;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import java.util.stream.IntStream;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** The natives: complete, careful with what they are given, and found by every class loader in every folder. */
class NativeTest {
    private static final long[] SHAPE = {8, 9};
    private static final float[] IMAGE = new float[72];

    static {
        for (int i = 0; i < IMAGE.length; i++) {
            IMAGE[i] = i * i % 37;
        }
    }

    @TempDir
    Path folder;

    NativeTest() {
        Libraries.load();
    }

    private static MdrModel mean() {
        return MdrModel.fromBytes("mean", TinyOnnx.mean3("denoise"));
    }

    @Test
    void everyFunctionOfTheHeaderHasItsMethod() throws Exception {
        String header = new String(Files.readAllBytes(Paths.get(System.getProperty("mdr.header"))), "UTF-8");
        Set<String> expected = new TreeSet<>();
        Matcher function = Pattern.compile("(?m)^mdr_(\\w+) \\(").matcher(header);
        while (function.find()) {
            StringBuilder name = new StringBuilder();
            for (String word : function.group(1).split("_")) {
                name.append(name.length() == 0 ? word : Character.toUpperCase(word.charAt(0)) + word.substring(1));
            }
            expected.add(name.toString());
        }
        // The text of an exception; and what is not libmdr's but opens it.
        assertTrue(expected.remove("lastError"));
        expected.add("open");
        Set<String> methods = new TreeSet<>();
        for (Method method : MdrNative.class.getDeclaredMethods()) {
            if (Modifier.isNative(method.getModifiers())) {
                methods.add(method.getName());
            }
        }
        assertEquals(expected, methods);
        assertTrue(header.contains("#define MDR_ABI_VERSION " + MdrNative.abiVersion() + "\n"));
    }

    @Test
    void anArrayAndItsPlanesGiveTheSame() {
        float[] whole = new float[IMAGE.length];
        Object[] planes = new Object[1];
        try (MdrModel model = mean()) {
            model.restore(IMAGE, "YX", SHAPE, "{}", null, whole);
            PlaneSink sink = (t, c, z, pixels) -> planes[0] = pixels;
            model.restorePlanes(
                    (t, c, z) -> IMAGE, PixelType.F32, "YX", SHAPE, "{}", null, sink, PixelType.F32);
            String fitted = model.fitPlanes((t, c, z) -> IMAGE, PixelType.F32, "YX", SHAPE, "{}");
            float[] again = new float[IMAGE.length];
            model.restore(IMAGE, "YX", SHAPE, "{\"fitted\":" + fitted + "}", null, again);
            assertArrayEquals(whole, again);
            assertArrayEquals(SHAPE, model.outputShape("YX", SHAPE, "{}"));
        }
        assertArrayEquals(whole, (float[]) planes[0]);
        // The middle of a 3×3 neighbourhood, counted by hand.
        float sum = 0;
        for (int i : new int[] {0, 1, 2, 9, 10, 11, 18, 19, 20}) {
            sum += IMAGE[i];
        }
        assertEquals(sum / 9, whole[10], 1e-4);
    }

    @Test
    void whatIsWrongIsAnException() {
        float[] out = new float[IMAGE.length];
        assertThrows(MdrException.class, () -> MdrModel.builtIn("sharpen"));
        assertThrows(MdrException.class, () -> MdrModel.builtIn(null));
        assertThrows(MdrException.class, () -> MdrModel.builtIn("de\0noise"));
        assertEquals(
                MdrException.BAD_MODEL,
                assertThrows(MdrException.class, () -> MdrModel.fromBytes("x", new byte[3])).status());
        MdrModel model = mean();
        for (Object wrong : new Object[] {null, new float[71], new double[72], "text", new float[0]}) {
            assertThrows(MdrException.class, () -> model.restore(wrong, "YX", SHAPE, "{}", null, out));
            assertThrows(MdrException.class, () -> model.restore(IMAGE, "YX", SHAPE, "{}", null, wrong));
            PlaneSource source = (t, c, z) -> wrong;
            PlaneSink sink = (t, c, z, pixels) -> {};
            assertThrows(MdrException.class, () -> model.restorePlanes(
                    source, PixelType.F32, "YX", SHAPE, "{}", null, sink, PixelType.F32));
        }
        for (long[] wrong : new long[][] {null, {}, {8}, {8, 9, 1}, {-8, -9}, {0, 9}, {Long.MAX_VALUE, 9}}) {
            assertThrows(MdrException.class, () -> model.restore(IMAGE, "YX", wrong, "{}", null, out));
            assertThrows(MdrException.class, () -> model.outputShape("YX", wrong, "{}"));
        }
        for (long channels : new long[] {1L << 40, 1L << 59}) {
            MdrException many = assertThrows(MdrException.class, () -> model.fitPlanes(
                    (t, c, z) -> new byte[1], PixelType.U8, "CYX", new long[] {channels, 1, 1}, "{}"));
            assertTrue(many.getMessage().contains(channels + " channels"), many.getMessage());
        }
        assertThrows(MdrException.class, () -> model.outputInfo("YX", SHAPE, "{\"tiel\":3}"));
        assertThrows(MdrException.class, () -> model.outputInfo("YXé", new long[] {8, 9, 1}, "{}"));
        assertThrows(MdrException.class, () -> MdrNative.restorePlanes(1, null, 7, "YX", SHAPE, "{}", null, null, 3));
        model.close();
        model.close();
        assertThrows(MdrException.class, model::facts);
    }

    @Test
    void samplesAreSimulated() {
        Object shape = ((java.util.Map<?, ?>) Json.parse(MdrNative.sample("denoise", null))).get("shape");
        int length = 1;
        for (Object side : (List<?>) shape) {
            length *= ((Double) side).intValue();
        }
        short[] pixels = new short[length];
        MdrNative.sample("denoise", pixels);
        assertTrue(IntStream.range(0, length).map(i -> pixels[i]).distinct().count() > 10);
        assertThrows(MdrException.class, () -> MdrNative.sample("denoise", new short[pixels.length - 1]));
    }

    @Test
    void callbacksCancelAndThrow() {
        PlaneSource source = (t, c, z) -> IMAGE;
        PlaneSink sink = (t, c, z, pixels) -> {};
        try (MdrModel model = mean()) {
            MdrException cancelled = assertThrows(MdrException.class, () -> model.restorePlanes(
                    source, PixelType.F32, "YX", SHAPE, "{}", (done, total) -> false, sink, PixelType.F32));
            assertEquals(MdrException.CANCELLED, cancelled.status());
            IllegalStateException mine = new IllegalStateException("mine");
            Progress progress = (done, total) -> {
                throw mine;
            };
            assertEquals(mine, assertThrows(IllegalStateException.class, () -> model.restore(
                    IMAGE, "YX", SHAPE, "{}", progress, new float[IMAGE.length])));
            assertEquals(mine, assertThrows(IllegalStateException.class, () -> model.restorePlanes(
                    (t, c, z) -> {
                        throw mine;
                    },
                    PixelType.F32, "YX", SHAPE, "{}", null, sink, PixelType.F32)));
            assertEquals(mine, assertThrows(IllegalStateException.class, () -> model.restorePlanes(
                    source, PixelType.F32, "YX", SHAPE, "{}", null,
                    (t, c, z, pixels) -> {
                        throw mine;
                    },
                    PixelType.F32)));
        }
    }

    @Test
    void aCallbackCannotCloseItsModel() {
        float[] out = new float[IMAGE.length];
        assertTimeoutPreemptively(Duration.ofSeconds(20), () -> {
            MdrModel model = mean();
            Progress closing = (done, total) -> {
                model.close();
                return true;
            };
            assertThrows(
                    IllegalStateException.class, () -> model.restore(IMAGE, "YX", SHAPE, "{}", closing, out));
            model.restore(IMAGE, "YX", SHAPE, "{}", null, out);
            model.close();
            assertThrows(MdrException.class, model::facts);
        });
    }

    @Test
    void twoThreadsShareAModelThatWaitsForThemToBeClosed() throws Exception {
        float[] expected = new float[IMAGE.length];
        MdrModel model = mean();
        model.restore(IMAGE, "YX", SHAPE, "{}", null, expected);
        List<Throwable> failures = new ArrayList<>();
        Thread[] threads = new Thread[2];
        int[] restored = new int[threads.length];
        for (int i = 0; i < threads.length; i++) {
            int me = i;
            threads[i] = new Thread(() -> {
                try {
                    while (true) {
                        float[] out = new float[IMAGE.length];
                        model.restore(IMAGE, "YX", SHAPE, "{\"threads\":1}", null, out);
                        assertArrayEquals(expected, out);
                        restored[me]++;
                    }
                } catch (MdrException closed) {
                    assertTrue(closed.getMessage().contains("closed"));
                } catch (Throwable failure) {
                    failures.add(failure);
                }
            });
            threads[i].start();
        }
        Thread.sleep(500);
        model.close();
        for (Thread thread : threads) {
            thread.join();
        }
        assertEquals(Arrays.asList(), failures);
        assertTrue(restored[0] > 0 && restored[1] > 0);
    }

    @Test
    void tenThousandCyclesDoNotGrowTheProcess() throws Exception {
        byte[] onnx = TinyOnnx.mean3("denoise");
        long before = 0;
        for (int i = 0; i < 10_000; i++) {
            if (i == 2000) {
                before = residentKb();
            }
            try (MdrModel model = MdrModel.fromBytes("mean", onnx)) {
                model.restorePlanes(
                        (t, c, z) -> IMAGE.clone(), PixelType.F32, "YX", SHAPE, "{\"threads\":1}", (d, t) -> true,
                        (t, c, z, pixels) -> {}, PixelType.F32);
            }
        }
        long growth = residentKb() - before;
        // A leak of one such model or plane a cycle would be tens of MB; the heap of Java breathes by a few.
        assertTrue(growth < 20_000, "grew by " + growth + " kB in 8000 cycles");
    }

    private static long residentKb() throws Exception {
        System.gc();
        for (String line : Files.readAllLines(Paths.get("/proc/self/status"))) {
            if (line.startsWith("VmRSS")) {
                return Long.parseLong(line.replaceAll("\\D", ""));
            }
        }
        throw new AssertionError("no VmRSS");
    }

    @Test
    void aSecondClassLoaderLoadsThemToo() throws Exception {
        List<URL> urls = new ArrayList<>();
        for (String path : System.getProperty("java.class.path").split(File.pathSeparator)) {
            urls.add(Paths.get(path).toUri().toURL());
        }
        assertEquals("0.1.0", MdrModel.version());
        for (int i = 0; i < 2; i++) {
            try (URLClassLoader loader = new URLClassLoader(urls.toArray(new URL[0]), null)) {
                Class<?> other = loader.loadClass("org.mdr.fiji.MdrModel");
                assertNotEquals(MdrModel.class, other);
                assertEquals("0.1.0", other.getMethod("version").invoke(null));
                AutoCloseable model = (AutoCloseable) other.getMethod("builtIn", String.class).invoke(null, "denoise");
                model.close();
            }
        }
    }

    @Test
    void severalProcessesUnpackAtOnceIntoAnyFolder() throws Exception {
        Path cache = Files.createDirectories(folder.resolve("ein Ordner für µ"));
        List<Thread> threads = new ArrayList<>();
        List<Throwable> failures = new ArrayList<>();
        for (int i = 0; i < 3; i++) {
            Thread thread = new Thread(() -> {
                try {
                    ProcessBuilder java = java("-Xcheck:jni", "org.mdr.fiji.NativeTest");
                    java.environment().put("XDG_CACHE_HOME", cache.toString());
                    java.environment().put("LC_ALL", "C.UTF-8");
                    String output = Samples.run(60, java);
                    assertTrue(output.endsWith("libmdr 0.1.0\n"), output);
                    // What -Xcheck:jni complains of.
                    assertTrue(!output.contains("WARNING") && !output.contains("FATAL"), output);
                } catch (Throwable failure) {
                    failures.add(failure);
                }
            });
            thread.start();
            threads.add(thread);
        }
        for (Thread thread : threads) {
            thread.join();
        }
        assertEquals(Arrays.asList(), failures);
        try (java.util.stream.Stream<Path> files = Files.walk(cache)) {
            assertEquals(2, files.filter(Files::isRegularFile).count());
        }
    }

    /** Of another ABI version, damaged, not for this platform: a failure as others are, the second time too. */
    @Test
    void librariesThatDoNotFitAreRefused() throws Exception {
        Path natives = Files.createDirectories(folder.resolve("natives").resolve(Libraries.platform()));
        Path other = folder.resolve("other.c");
        Files.write(other, "unsigned mdr_abi_version(void) { return 99; }".getBytes("UTF-8"));
        Path library = natives.resolve(System.mapLibraryName("mdr"));
        Samples.run(60, "cc", "-shared", "-fPIC", "-o", library.toString(), other.toString());
        refused("has ABI version 99");
        Files.write(library, new byte[100]);
        refused(library.getFileName().toString());
        Files.write(natives.resolve(System.mapLibraryName("mdr_jni")), new byte[100]);
        refused("cannot load the libraries of mdr");
        refused("this jar has no /natives/osx_arm64/", "-Dos.name=Mac OS X", "-Dos.arch=aarch64");
    }

    private void refused(String why, String... arguments) throws Exception {
        String[] program = {"org.mdr.fiji.NativeTest", "refused"};
        ProcessBuilder java = java(Samples.concat(arguments, program));
        int path = java.command().indexOf("-cp") + 1;
        java.command().set(path, folder + File.pathSeparator + java.command().get(path));
        java.environment().put("XDG_CACHE_HOME", folder.resolve("cache").toString());
        java.environment().put("HOME", folder.toString());
        String output = Samples.run(60, java);
        assertEquals(2, output.split("Denoise...: ").length - 1, output);
        assertEquals(2, output.split(Pattern.quote(why)).length - 1, output);
    }

    @Test
    void aVirtualStackIsNeverInMemoryAsAWhole() throws Exception {
        String output = Samples.run(110, java("-Xmx40m", "org.mdr.fiji.LargeStack"));
        assertEquals("true 400 129600\n", output);
    }

    @Test
    void whatDoesNotFitIntoMemoryIsSaid() throws Exception {
        String output = Samples.run(110, java("-Xmx220m", "org.mdr.fiji.LargeStack", "in memory"));
        // Some collectors leave Java less than it was given.
        assertTrue(output.matches("(?s)the result does not fit into the 2[012]\\d MB.*"), output);
    }

    /** 8 bit become 32. */
    @Test
    void foldersOpenLargeFilesAsVirtualStacks() throws Exception {
        String output = Samples.run(110, java("-Xmx64m", "org.mdr.fiji.LargeStack", "folder", folder.toString()));
        assertEquals("1 restored, 0 temporary files\n", output);
        assertTrue(Files.size(folder.resolve("out").resolve("large.tif")) > 60_000_000);
    }

    static ProcessBuilder java(String... arguments) {
        String[] command = {
            Paths.get(System.getProperty("java.home"), "bin", "java").toString(),
            "-Djava.awt.headless=true", "-cp", System.getProperty("java.class.path"),
        };
        return new ProcessBuilder(Samples.concat(command, arguments));
    }

    /** In a process of its own, watched by -Xcheck:jni: every native method, right and wrong. */
    public static void main(String[] arguments) throws Exception {
        if (arguments.length > 0) {
            Samples.registerCommands();
            ij.macro.Interpreter.batchMode = true;
            for (int i = 0; i < 2; i++) {
                try {
                    ij.IJ.run(Samples.image("any", 8, 20, 20, 1, 1, 1), "Denoise...", "model=[built-in]");
                } catch (MdrException failure) {
                    System.out.println(failure.getMessage());
                }
            }
            return;
        }
        NativeTest test = new NativeTest();
        test.anArrayAndItsPlanesGiveTheSame();
        test.whatIsWrongIsAnException();
        test.callbacksCancelAndThrow();
        ImagePlus imp = Samples.image("many planes", 8, 20, 20, 1, 60, 1);
        assertTrue(Restore_.restore(imp, "denoise", "keep").getStackSize() == 60);
        System.out.println("libmdr " + MdrModel.version());
    }
}
