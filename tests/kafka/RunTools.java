// Runs Apache Kafka's own command-line tools, one after the other in one virtual machine, for tests/examples/kafka_clients, which runs
// this against Kafka and against agents and compares the output.
//
// Usage: java RunTools.java BOOTSTRAP SCRIPT [FOLDER]
//
// A line of a script is the name of a tool and its arguments; BOOTSTRAP and FOLDER in it are replaced. What may come before:
//   < TEXT        lines for the standard input of the next command, `\n` between them
//   until TEXT :: repeats the command until its output has the text: a broker may learn of a change a moment after another one made it
// And after:
//   | sort         for tools that print in no particular order
//   | grep REGEX   only lines in which the regular expression is found
// Prints each command, its standard output without what differs between any two clusters, and its exit code unless that is 0.

import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.regex.Pattern;
import java.util.stream.Stream;
import org.apache.kafka.common.utils.Exit;

public class RunTools {
    private static final String TOOLS = "org.apache.kafka.tools.";
    private static final Map<String, String> CLASSES = Map.ofEntries(
        Map.entry("topics", TOOLS + "TopicCommand"),
        Map.entry("configs", "kafka.admin.ConfigCommand"),
        Map.entry("consumer-groups", TOOLS + "consumer.group.ConsumerGroupCommand"),
        Map.entry("groups", TOOLS + "GroupsCommand"),
        Map.entry("get-offsets", TOOLS + "GetOffsetShell"),
        Map.entry("delete-records", TOOLS + "DeleteRecordsCommand"),
        Map.entry("console-producer", TOOLS + "ConsoleProducer"),
        Map.entry("console-consumer", TOOLS + "consumer.ConsoleConsumer"),
        Map.entry("cluster", TOOLS + "ClusterTool"),
        Map.entry("reassign-partitions", TOOLS + "reassign.ReassignPartitionsCommand"));
    // Ids, addresses, times and speeds, replicas and the wording of errors.
    private static final String[][] DIFFERENT = {
        {"127\\.0\\.0\\.1:\\d+", "ADDRESS"},
        {"(ADDRESS +)\\(\\d+\\) *", "ADDRESS (NODE) "},
        {"TopicId: \\S+", "TopicId: ID"},
        {"ReplicationFactor: \\d+", "ReplicationFactor: N"},
        {"(Leader|Replicas|Isr): [\\d,]+", "$1: N"},
        {"Elr: .*", "Elr"},
        {"(Error while executing topic command : ).*", "$1MESSAGE"},
        {"(kafka\\.common\\.errors\\.\\w+: ).*", "$1MESSAGE"},
        {"DYNAMIC_DEFAULT_BROKER_CONFIG:min\\.insync\\.replicas=1, ", ""},
        // Agents do not keep which protocol the last member of a group had.
        {"Classic +consumer", "Classic"},
        {"(Configs: )min\\.insync\\.replicas=1,?", "$1"},
        {"Cluster ID: \\S+", "Cluster ID: ID"},
        {"console-consumer-[0-9a-f-]{36}", "console-consumer-ID"},
        {"\"timestamp\":\\d+", "\"timestamp\":TIME"},
        {"CreateTime:\\d{13}", "CreateTime:TIME"},
        {"\\d{4}-\\d\\d-\\d\\d[ T]\\d\\d:\\d\\d:\\d\\d[.:]\\d+", "TIME"},
    };
    private static final long LIMIT_MS = 60_000;

    private static final class ExitSignal extends Error {
        ExitSignal() {
            super("the tool has ended", null, false, false);
        }
    }

    private final PrintStream out = System.out;
    private final List<Runnable> hooks = new ArrayList<>();
    private final String bootstrap;
    private final String folder;
    private Integer code;

    private RunTools(String bootstrap, String folder) {
        this.bootstrap = bootstrap;
        this.folder = folder;
        // Some tools catch everything and exit once more: the first code is theirs.
        Exit.Procedure exit = (status, message) -> {
            code = code == null ? status : code;
            throw new ExitSignal();
        };
        Exit.setExitProcedure(exit);
        Exit.setHaltProcedure(exit);
        Exit.setShutdownHookAdder((name, hook) -> hooks.add(hook));
    }

    public static void main(String[] arguments) throws Exception {
        RunTools tools = new RunTools(arguments[0], arguments.length > 2 ? arguments[2] : "");
        String input = "";
        for (String line : Files.readAllLines(Path.of(arguments[1]))) {
            if (line.isBlank() || line.startsWith("#")) {
                continue;
            }
            if (line.startsWith("< ")) {
                input = line.substring(2).replace("\\n", "\n").replace("\\t", "\t") + "\n";
                continue;
            }
            tools.show(line, input);
            input = "";
        }
        System.exit(0);
    }

    private void show(String line, String input) throws Exception {
        String[] stages = line.split(" \\| ");
        String command = stages[0];
        String wanted = "";
        if (command.startsWith("until ")) {
            int colon = command.indexOf(" :: ");
            wanted = command.substring("until ".length(), colon);
            command = command.substring(colon + 4);
        }
        out.println("$ " + command);
        long end = System.currentTimeMillis() + LIMIT_MS;
        String text = run(command, input);
        while (!text.contains(wanted) && System.currentTimeMillis() < end) {
            Thread.sleep(100);
            text = run(command, input);
        }
        if (!text.contains(wanted)) {
            System.err.println("no " + wanted + " from " + command + "\n" + text);
            System.exit(1);
        }
        // Shown when the scenario fails: errors with their wording.
        System.err.println("$ " + command + "\n" + text);
        for (String[] pair : DIFFERENT) {
            text = text.replaceAll(pair[0], pair[1]);
        }
        Stream<String> lines = text.lines().map(String::stripTrailing).filter(one -> !one.startsWith("The consumer rebalance protocol"));
        for (String stage : Arrays.copyOfRange(stages, 1, stages.length)) {
            lines = stage.equals("sort") ? lines.sorted() : lines.filter(Pattern.compile(stage.substring("grep ".length())).asPredicate());
        }
        lines.forEach(out::println);
        if (code != null && code != 0) {
            out.println("exit code " + code);
        }
        out.flush();
    }

    private String run(String command, String input) throws Exception {
        String[] words = command.replace("BOOTSTRAP", bootstrap).replace("FOLDER", folder).split(" +");
        String name = CLASSES.get(words[0]);
        if (name == null) {
            throw new IllegalArgumentException("no tool " + words[0]);
        }
        ByteArrayOutputStream printed = new ByteArrayOutputStream();
        System.setOut(new PrintStream(printed, true, StandardCharsets.UTF_8));
        System.setIn(new ByteArrayInputStream(input.getBytes(StandardCharsets.UTF_8)));
        code = null;
        try {
            Object arguments = Arrays.copyOfRange(words, 1, words.length);
            Class.forName(name).getMethod("main", String[].class).invoke(null, arguments);
        } catch (InvocationTargetException thrown) {
            if (!(thrown.getCause() instanceof ExitSignal)) {
                throw thrown;
            }
        }
        for (Runnable hook : hooks) {
            hook.run();
        }
        hooks.clear();
        System.out.flush();
        return printed.toString(StandardCharsets.UTF_8);
    }
}
