package org.mdr.fiji;

import ij.IJ;
import ij.ImagePlus;
import ij.io.FileSaver;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;

/**
 * Prints how long a file takes in ImageJ beside {@code mdr restore}, in turn: open, restore, save. The path of mdr, of the
 * same build, is the argument; a second one is the side of the image, a third the number of rounds.
 *
 * <pre>
 * java -Djava.awt.headless=true -cp IJ.JAR:plugins/fiji/target/MDR_Restore-0.1.0.jar:plugins/fiji/target/test-classes \
 *     org.mdr.fiji.Overhead target/dist/mdr
 * </pre>
 */
final class Overhead {
    private Overhead() {}

    public static void main(String[] arguments) throws Exception {
        int side = arguments.length > 1 ? Integer.parseInt(arguments[1]) : 2048;
        int rounds = arguments.length > 2 ? Integer.parseInt(arguments[2]) : 9;
        Path folder = Files.createTempDirectory("overhead");
        File in = folder.resolve("in.tif").toFile();
        File java = folder.resolve("java.tif").toFile();
        File cli = folder.resolve("cli.tif").toFile();
        try {
            new FileSaver(Samples.image("in", 16, side, side, 1, 1, 1)).saveAsTiff(in.getPath());
            double[] ratios = new double[rounds];
            double[] seconds = new double[rounds];
            for (int round = -1; round < rounds; round++) {
                long start = System.nanoTime();
                ImagePlus restored = Restore_.restore(IJ.openImage(in.getPath()), "denoise", "");
                new FileSaver(restored).saveAsTiff(java.getPath());
                long middle = System.nanoTime();
                String[] command = {arguments[0], "restore", in.getPath(), "-o", cli.getPath(), "--force", "--quiet"};
                int status = new ProcessBuilder(command).inheritIO().start().waitFor();
                long end = System.nanoTime();
                Object expected = IJ.openImage(cli.getPath()).getProcessor().getPixels();
                if (status != 0 || !Arrays.equals((float[]) restored.getProcessor().getPixels(), (float[]) expected)) {
                    throw new AssertionError("the pixels are not those of the command line");
                }
                // The first round is for the caches, and for Java's compiler.
                if (round >= 0) {
                    seconds[round] = (middle - start) / 1e9;
                    ratios[round] = (middle - start) / (double) (end - middle);
                }
            }
            Arrays.sort(ratios);
            Arrays.sort(seconds);
            System.out.printf(
                    "%d x %d pixels, 16 bit, %d rounds: ImageJ %.1f ms, ImageJ / command line %.3f (quartiles %.3f to %.3f)%n",
                    side, side, rounds, 1e3 * seconds[rounds / 2], ratios[rounds / 2], ratios[rounds / 4], ratios[3 * rounds / 4]);
        } finally {
            for (File file : new File[] {in, java, cli, folder.toFile()}) {
                file.delete();
            }
        }
    }
}
