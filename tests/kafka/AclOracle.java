import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.acl.AclOperation;
import org.apache.kafka.common.acl.AclPermissionType;
import org.apache.kafka.common.metrics.Metrics;
import org.apache.kafka.common.metrics.internals.PluginMetricsImpl;
import org.apache.kafka.common.resource.PatternType;
import org.apache.kafka.common.resource.ResourcePattern;
import org.apache.kafka.common.resource.ResourceType;
import org.apache.kafka.common.security.auth.KafkaPrincipal;
import org.apache.kafka.common.security.auth.SecurityProtocol;
import org.apache.kafka.common.utils.SecurityUtils;
import org.apache.kafka.metadata.authorizer.StandardAcl;
import org.apache.kafka.metadata.authorizer.StandardAuthorizer;
import org.apache.kafka.server.authorizer.Action;
import org.apache.kafka.server.authorizer.AuthorizableRequestContext;

// Answers questions by Kafka's own authorizer, for tests/tests/kafka_authorizer.rs.
//
// Usage: AclOracle FILE. Lines of FILE, with tabs between their fields: `reset` forgets all rules; `acl` with type, name, pattern, principal,
// host, operation and permission adds one; `ask` with principal, host, operation, type and name asks about a resource; `type` with principal,
// host, operation and type about some resource. Numbers are the protocol's. Prints a line for each question.
public final class AclOracle {
    private record Client(KafkaPrincipal principal, InetAddress clientAddress) implements AuthorizableRequestContext {
        public String listenerName() {
            return "SASL";
        }

        public SecurityProtocol securityProtocol() {
            return SecurityProtocol.SASL_PLAINTEXT;
        }

        public int requestType() {
            return 0;
        }

        public int requestVersion() {
            return 0;
        }

        public String clientId() {
            return "test";
        }

        public int correlationId() {
            return 0;
        }
    }

    private StandardAuthorizer authorizer;

    public static void main(String[] arguments) throws Exception {
        AclOracle oracle = new AclOracle();
        StringBuilder answers = new StringBuilder();
        for (String line : Files.readAllLines(Path.of(arguments[0]))) {
            String[] fields = line.split("\t", -1);
            switch (fields[0]) {
                case "reset" -> oracle.reset();
                case "acl" -> oracle.add(fields);
                case "ask" -> answers.append(oracle.ask(fields)).append('\n');
                case "type" -> answers.append(oracle.askByType(fields)).append('\n');
                default -> throw new IllegalArgumentException(line);
            }
        }
        System.out.print(answers);
    }

    private void reset() {
        authorizer = new StandardAuthorizer();
        authorizer.withPluginMetrics(new PluginMetricsImpl(new Metrics(), Map.of()));
        authorizer.configure(Map.of("super.users", "User:root", "allow.everyone.if.no.acl.found", "false", "node.id", "1"));
        authorizer.completeInitialLoad();
    }

    private void add(String[] fields) {
        StandardAcl acl = new StandardAcl(resourceType(fields[1]), fields[2], PatternType.fromCode(Byte.parseByte(fields[3])), fields[4],
            fields[5], operation(fields[6]), AclPermissionType.fromCode(Byte.parseByte(fields[7])));
        authorizer.addAcl(Uuid.randomUuid(), acl);
    }

    private String ask(String[] fields) throws Exception {
        ResourcePattern resource = new ResourcePattern(resourceType(fields[4]), fields[5], PatternType.LITERAL);
        return authorizer.authorize(client(fields), List.of(new Action(operation(fields[3]), resource, 1, true, true))).get(0).toString();
    }

    private String askByType(String[] fields) throws Exception {
        return authorizer.authorizeByResourceType(client(fields), operation(fields[3]), resourceType(fields[4])).toString();
    }

    private static Client client(String[] fields) throws Exception {
        return new Client(SecurityUtils.parseKafkaPrincipal(fields[1]), InetAddress.getByName(fields[2]));
    }

    private static ResourceType resourceType(String code) {
        return ResourceType.fromCode(Byte.parseByte(code));
    }

    private static AclOperation operation(String code) {
        return AclOperation.fromCode(Byte.parseByte(code));
    }
}
