package org.mdr.fiji;

import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import ij.IJ;
import ij.ImagePlus;
import ij.io.FileSaver;
import java.io.File;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.jar.JarEntry;
import java.util.jar.JarOutputStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

/** Plain ImageJ with a display (Xvfb) and the jar in its plugins folder, at a path with spaces and foreign letters. */
class DisplayTest {
    @TempDir
    static Path folder;

    private static Path imageJ;

    @BeforeAll
    static void install() throws Exception {
        boolean found = Stream.of(System.getenv("PATH").split(File.pathSeparator))
                .anyMatch(path -> new File(path, "xvfb-run").canExecute());
        assertTrue(found || System.getenv("MDR_REQUIRE_TOOLS") == null, "xvfb-run is missing");
        assumeTrue(found, "xvfb-run is not installed");
        imageJ = folder.resolve("Bildverarbeitung für Zellen");
        Path classes = Paths.get(MdrModel.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        Path jar = Files.createDirectories(imageJ.resolve("plugins")).resolve("MDR_Restore-test.jar");
        try (JarOutputStream out = new JarOutputStream(Files.newOutputStream(jar));
                Stream<Path> files = Files.walk(classes)) {
            out.setLevel(1);
            for (Path file : (Iterable<Path>) files.filter(Files::isRegularFile)::iterator) {
                out.putNextEntry(new JarEntry(classes.relativize(file).toString().replace(File.separatorChar, '/')));
                Files.copy(file, out);
                out.closeEntry();
            }
        }
    }

    private static String imageJ(String more, String... arguments) throws Exception {
        String ij = Paths.get(IJ.class.getProtectionDomain().getCodeSource().getLocation().toURI()).toString();
        String[] command = {
            "xvfb-run", "-a", "-s", "-screen 0 1280x1024x24",
            Paths.get(System.getProperty("java.home"), "bin", "java").toString(),
            "-Dplugins.dir=" + imageJ, "-Duser.home=" + folder, "-Xmx700m",
            "-cp", ij + more,
        };
        ProcessBuilder builder = new ProcessBuilder(Samples.concat(command, arguments));
        builder.environment().put("LC_ALL", "C.UTF-8");
        builder.environment().put("XDG_CACHE_HOME", folder.resolve("cache für mdr").toString());
        return Samples.run(90, builder);
    }

    @Test
    void menuDialogPreviewRecordingEscapeAndErrors() throws Exception {
        Path tests = Paths.get(Probe.class.getProtectionDomain().getCodeSource().getLocation().toURI());
        String screenshot = System.getProperty("mdr.screenshot", "");
        String output = imageJ(
                File.pathSeparator + tests,
                screenshot.isEmpty() ? new String[] {"org.mdr.fiji.Probe"}
                        : new String[] {"org.mdr.fiji.Probe", screenshot});
        assertTrue(output.contains("PASS"), output);
    }

    @Test
    void macrosInBatchMode() throws Exception {
        ImagePlus imp = Samples.image("stack", 16, 64, 48, 2, 3, 1);
        String in = folder.resolve("a stack.tif").toString();
        String out = folder.resolve("restored.tif").toString();
        new FileSaver(imp).saveAsTiff(in);
        Path macro = folder.resolve("macro.ijm");
        Files.write(macro, ("open('" + in + "'); run('Denoise...', 'model=[built-in] tile=auto');"
                + " saveAs('Tiff', '" + out + "'); print('PASS');").getBytes("UTF-8"));
        String output = imageJ("", "ij.ImageJ", "-batch", macro.toString());
        assertTrue(output.contains("PASS"), output);
        assertTrue(Samples.same(Samples.commandLine(folder, imp), IJ.openImage(out)));

        Files.write(macro, "run('Denoise...', 'tile=none'); print('went on');".getBytes("UTF-8"));
        output = imageJ("", "ij.ImageJ", "-batch", macro.toString());
        assertTrue(output.contains("no image is open") && !output.contains("went on"), output);
    }
}
