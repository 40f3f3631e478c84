package org.mdr.fiji;

import java.io.IOException;
import java.io.InputStream;
import java.nio.file.AtomicMoveNotSupportedException;
import java.nio.file.Files;
import java.nio.file.InvalidPathException;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardCopyOption;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Locale;

/**
 * The two native libraries in the jar (libmdr, and the shim between it and Java) → files that the system can load.
 *
 * <p>They are unpacked once into the user's cache, into a folder that is named after their content, so that versions
 * never mix. A file appears there by a rename: another Fiji that starts at the same time sees it whole or not at all. A
 * JVM loads a library for one class loader only; the next class loader gets a copy of the shim in a temporary folder.
 */
final class Libraries {
    private static boolean loaded;

    private Libraries() {}

    /** Makes the native methods work. Where it cannot it says why, every time: a static initializer would say it once. */
    static synchronized void load() {
        if (loaded) {
            return;
        }
        String library = System.mapLibraryName("mdr");
        String shim = System.mapLibraryName("mdr_jni");
        try {
            Path folder = unpack(library, shim);
            try {
                System.load(folder.resolve(shim).toString());
            } catch (UnsatisfiedLinkError error) {
                if (!String.valueOf(error.getMessage()).contains("another classloader")) {
                    throw error;
                }
                Path copy = Files.createTempDirectory("mdr").resolve(shim);
                Files.copy(folder.resolve(shim), copy);
                // Deleted in the reverse order.
                copy.getParent().toFile().deleteOnExit();
                copy.toFile().deleteOnExit();
                System.load(copy.toString());
            }
            MdrNative.open(folder.resolve(library).toString());
            loaded = true;
        } catch (IOException error) {
            throw new MdrException(MdrException.IO, "cannot unpack the libraries of mdr: " + error, error);
        } catch (UnsatisfiedLinkError error) {
            throw new MdrException(
                    MdrException.IO, "cannot load the libraries of mdr: " + error.getMessage(), error);
        }
    }

    /** The folder of this platform in the jar, named as native-lib-loader does, such as linux_64. */
    static String platform() {
        String os = System.getProperty("os.name").toLowerCase(Locale.ROOT);
        String arch = System.getProperty("os.arch").toLowerCase(Locale.ROOT);
        String name = os.startsWith("mac") ? "osx" : os.startsWith("windows") ? "windows" : "linux";
        return name + (arch.equals("aarch64") || arch.equals("arm64") ? "_arm64" : "_64");
    }

    private static Path unpack(String... names) throws IOException {
        MessageDigest digest;
        try {
            digest = MessageDigest.getInstance("SHA-256");
        } catch (NoSuchAlgorithmException error) {
            throw new IllegalStateException("every Java has SHA-256", error);
        }
        long[] lengths = new long[names.length];
        byte[] buffer = new byte[1 << 16];
        for (int i = 0; i < names.length; i++) {
            try (InputStream in = resource(names[i])) {
                for (int count; (count = in.read(buffer)) > 0; lengths[i] += count) {
                    digest.update(buffer, 0, count);
                }
            }
        }
        StringBuilder version = new StringBuilder("natives-");
        byte[] hash = digest.digest();
        for (int i = 0; i < 8; i++) {
            version.append(String.format("%02x", hash[i]));
        }
        Path folder;
        try {
            folder = Files.createDirectories(cache().resolve(version.toString()));
        } catch (IOException | InvalidPathException error) {
            // A home that is read-only, or has letters that the locale lacks: unpacked for this run alone.
            folder = Files.createTempDirectory("mdr");
            folder.toFile().deleteOnExit();
            for (String name : names) {
                folder.resolve(name).toFile().deleteOnExit();
            }
        }
        for (int i = 0; i < names.length; i++) {
            Path file = folder.resolve(names[i]);
            if (!isThere(file, lengths[i])) {
                place(names[i], lengths[i], file);
            }
        }
        return folder;
    }

    private static boolean isThere(Path file, long length) throws IOException {
        return Files.isRegularFile(file) && Files.size(file) == length;
    }

    private static void place(String name, long length, Path file) throws IOException {
        Path part = Files.createTempFile(file.getParent(), "unpack", ".part");
        try (InputStream in = resource(name)) {
            Files.copy(in, part, StandardCopyOption.REPLACE_EXISTING);
            try {
                Files.move(part, file, StandardCopyOption.ATOMIC_MOVE);
            } catch (AtomicMoveNotSupportedException error) {
                Files.move(part, file, StandardCopyOption.REPLACE_EXISTING);
            }
        } catch (IOException error) {
            // On Windows a library that another Fiji has placed and loaded in the meantime cannot be replaced.
            if (!isThere(file, length)) {
                throw error;
            }
        } finally {
            Files.deleteIfExists(part);
        }
    }

    private static InputStream resource(String name) throws IOException {
        String path = "/natives/" + platform() + "/" + name;
        InputStream in = Libraries.class.getResourceAsStream(path);
        if (in == null) {
            throw new IOException("this jar has no " + path + "; get the one for this platform");
        }
        return in;
    }

    /** Where this system keeps what can be made anew. */
    private static Path cache() {
        String home = System.getProperty("user.home");
        String os = platform();
        String set = System.getenv(os.startsWith("windows") ? "LOCALAPPDATA" : "XDG_CACHE_HOME");
        Path base;
        if (os.startsWith("osx")) {
            base = Paths.get(home, "Library", "Caches");
        } else if (set != null && !set.isEmpty()) {
            base = Paths.get(set);
        } else {
            base = os.startsWith("windows") ? Paths.get(home, "AppData", "Local") : Paths.get(home, ".cache");
        }
        return base.resolve("mdr-fiji").toAbsolutePath();
    }
}
