package org.mdr.fiji;

import ij.CompositeImage;
import ij.IJ;
import ij.ImagePlus;
import ij.ImageStack;
import ij.Menus;
import ij.io.FileSaver;
import java.io.BufferedReader;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.lang.reflect.Field;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.Hashtable;
import java.util.Random;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import java.util.zip.Deflater;

/** What the tests share: seeded images, the command line to compare with, and ImageJ without a display. */
final class Samples {
    private Samples() {}

    /** Blobs and noise; a hyperstack where there is more than one plane. */
    static ImagePlus image(String title, int bits, int width, int height, int c, int z, int t) {
        Random random = new Random(bits + 31L * width + 7L * c + 5L * z + t);
        ImageStack stack = new ImageStack(width, height);
        for (int n = 0; n < c * z * t; n++) {
            int level = 20 + 15 * (n % c) + 3 * (n / c);
            float[] plane = new float[width * height];
            for (int i = 0; i < plane.length; i++) {
                double wave = Math.sin(i % width / 6.0 + n) * Math.cos(i / width / 9.0);
                plane[i] = (float) Math.max(0, level + 60 * Math.max(0, wave) + 12 * random.nextGaussian());
            }
            stack.addSlice("plane " + n, pixels(plane, bits));
        }
        ImagePlus imp = new ImagePlus(title, stack);
        imp.setDimensions(c, z, t);
        if (c * z * t > 1) {
            imp.setOpenAsHyperStack(true);
        }
        return c > 1 ? new CompositeImage(imp, IJ.COMPOSITE) : imp;
    }

    private static Object pixels(float[] plane, int bits) {
        byte[] bytes = new byte[plane.length];
        short[] shorts = new short[plane.length];
        for (int i = 0; i < plane.length; i++) {
            bytes[i] = (byte) Math.min(255, Math.round(plane[i]));
            shorts[i] = (short) Math.round(100 * plane[i]);
        }
        return bits == 8 ? bytes : bits == 16 ? shorts : plane;
    }

    /** A TIFF file of noise, 8 bit, deflated; ImageJ reads such files and does not write them. Its samples come last. */
    static byte[] deflated(int width, int height) {
        byte[] samples = new byte[width * height];
        new Random(1).nextBytes(samples);
        Deflater deflater = new Deflater();
        deflater.setInput(samples);
        deflater.finish();
        byte[] stream = new byte[2 * samples.length];
        int length = deflater.deflate(stream);
        deflater.end();
        // Tag and value of each field, a LONG.
        int[][] fields = {
            {256, width}, {257, height}, {258, 8}, {259, 8}, {262, 1}, {273, 122}, {277, 1}, {278, height}, {279, length}
        };
        ByteBuffer file = ByteBuffer.allocate(122 + length).order(ByteOrder.LITTLE_ENDIAN);
        file.put((byte) 'I').put((byte) 'I').putShort((short) 42).putInt(8).putShort((short) fields.length);
        for (int[] field : fields) {
            file.putShort((short) field[0]).putShort((short) 4).putInt(1).putInt(field[1]);
        }
        return file.putInt(0).put(stream, 0, length).array();
    }

    /** What {@code mdr restore} makes of an image. */
    static ImagePlus commandLine(Path folder, ImagePlus imp, String... options) throws Exception {
        File in = folder.resolve("cli-in.tif").toFile();
        File out = folder.resolve("cli-out.tif").toFile();
        if (!new FileSaver(imp).saveAsTiff(in.getPath())) {
            throw new IOException("cannot write " + in);
        }
        String[] command = {System.getProperty("mdr.cli"), "restore", in.getPath(), "-o", out.getPath(), "--force"};
        run(60, concat(command, options));
        return IJ.openImage(out.getPath());
    }

    static String[] concat(String[] a, String... b) {
        String[] all = Arrays.copyOf(a, a.length + b.length);
        System.arraycopy(b, 0, all, a.length, b.length);
        return all;
    }

    /** Runs a program and returns what it printed; fails where it fails or takes longer. */
    static String run(int seconds, String... command) throws Exception {
        return run(seconds, new ProcessBuilder(command));
    }

    static String run(int seconds, ProcessBuilder builder) throws Exception {
        File log = File.createTempFile("mdr-test", ".log");
        try {
            Process process = builder.redirectErrorStream(true).redirectOutput(log).start();
            boolean ended = process.waitFor(seconds, TimeUnit.SECONDS);
            process.destroyForcibly();
            String output = new String(Files.readAllBytes(log.toPath()), "UTF-8");
            if (!ended || process.exitValue() != 0) {
                throw new AssertionError(
                        builder.command() + (ended ? " failed:\n" : " did not end in time:\n") + output);
            }
            return output;
        } finally {
            log.delete();
        }
    }

    /** All pixels, plane after plane, of the numbers stored. */
    static Object[] planes(ImagePlus imp) {
        Object[] planes = new Object[imp.getStackSize()];
        for (int n = 0; n < planes.length; n++) {
            planes[n] = imp.getStack().getPixels(n + 1);
        }
        return planes;
    }

    static boolean same(ImagePlus a, ImagePlus b) {
        return Arrays.deepEquals(planes(a), planes(b));
    }

    /** The files of planes that this process has open. */
    static Set<String> planeFiles() {
        Set<String> found = new TreeSet<>();
        for (File link : new File("/proc/self/fd").listFiles()) {
            try {
                String path = Files.readSymbolicLink(link.toPath()).toString();
                if (path.contains(".planes")) {
                    found.add(path);
                }
            } catch (IOException gone) {
                // Such as that by which the folder was read.
            }
        }
        return found;
    }

    /**
     * Fills ImageJ's table of commands from plugins.config: without a display it makes none, since it makes the menus
     * at the same time. Fiji makes both.
     */
    @SuppressWarnings("unchecked")
    static void registerCommands() throws Exception {
        Field field = Menus.class.getDeclaredField("pluginsTable");
        field.setAccessible(true);
        Hashtable<String, String> table = new Hashtable<>();
        field.set(null, table);
        try (BufferedReader config = new BufferedReader(
                new InputStreamReader(Samples.class.getResourceAsStream("/plugins.config"), "UTF-8"))) {
            for (String line; (line = config.readLine()) != null; ) {
                String[] parts = line.split(", ", 2).length == 2 ? line.split(", ") : null;
                if (parts != null && parts.length == 3 && !line.startsWith("#")) {
                    table.put(parts[1].replace("\"", ""), parts[2]);
                }
            }
        }
    }
}
