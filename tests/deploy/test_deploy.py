"""deploy/ is held against what it names: schemas of Kubernetes, our flags, metrics and routes; linters of formats."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from swift.commands.configs import CONFIGS, VOCABULARY
from swift.core.config import parse
from swift.serve import auth
from swift.serve.door import OPEN
from swift.serve.ledger import Allowance
from swift.serve.routes import ROUTES
from tests.serve.running import house

DEPLOY = Path(__file__).parents[2] / 'deploy'
MANIFESTS = sorted((DEPLOY / 'kubernetes').glob('*.yaml'))
VERSIONS = ('1.31', '1.37')
DRAINED = 10  # seconds that a server needs after --drain: to tell who is cut off, and for its engine's end


def load(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text(encoding='utf-8'))


def manifest(kind: str) -> dict[str, Any]:
    return next(each for path in MANIFESTS if (each := yaml.safe_load(path.read_text()))['kind'] == kind)


def pod() -> dict[str, Any]:
    return manifest('Deployment')['spec']['template']['spec']


def settings(text: str, folder: Path) -> Any:
    """The configuration of ``swift deploy`` with a file of settings, whose model is made up."""
    path = folder / 'server.yaml'
    path.write_text(text.replace('model: /models/model', f'model: {folder}', 1), encoding='utf-8')
    return parse(CONFIGS['deploy'], [str(path)], VOCABULARY, {})


# ---------------------------------------------------------------------------------------------------------- Kubernetes
@pytest.mark.parametrize('version', VERSIONS)
@pytest.mark.parametrize('path', MANIFESTS, ids=lambda path: path.stem)
def test_manifests_fit_the_schemas_of_kubernetes(path, version):
    validate = pytest.importorskip('kubernetes_validate')
    resource = yaml.safe_load(path.read_text(encoding='utf-8'))
    if resource['kind'] != 'Kustomization':
        validate.validate(resource, version, strict=True)


def test_the_list_of_manifests_is_whole():
    assert {*load('kubernetes/kustomization.yaml')['resources'], 'kustomization.yaml'} == {
        path.name for path in MANIFESTS
    }


def test_manifests_mean_the_same_pods():
    labels = manifest('Deployment')['spec']['template']['metadata']['labels']
    selectors = [
        manifest('Deployment')['spec']['selector']['matchLabels'],
        manifest('Service')['spec']['selector'],
        manifest('PodDisruptionBudget')['spec']['selector']['matchLabels'],
        manifest('NetworkPolicy')['spec']['podSelector']['matchLabels'],
        pod()['topologySpreadConstraints'][0]['labelSelector']['matchLabels'],
    ]
    assert all(selector.items() <= labels.items() for selector in selectors)
    target = manifest('HorizontalPodAutoscaler')['spec']['scaleTargetRef']
    assert (target['kind'], target['name']) == ('Deployment', manifest('Deployment')['metadata']['name'])


def test_the_pod_mounts_what_it_has_and_its_ports_have_names():
    container = pod()['containers'][0]
    assert {mount['name'] for mount in container['volumeMounts']} == {volume['name'] for volume in pod()['volumes']}
    names = {port['name'] for port in container['ports']}
    used = {container[probe]['httpGet']['port'] for probe in ('startupProbe', 'livenessProbe', 'readinessProbe')}
    used |= {port['targetPort'] for port in manifest('Service')['spec']['ports']}
    used |= {port['port'] for rule in manifest('NetworkPolicy')['spec']['ingress'] for port in rule['ports']}
    assert used == names


def test_probes_ask_routes_that_need_no_key():
    paths = {route.path for route in ROUTES}
    container = pod()['containers'][0]
    for probe in ('startupProbe', 'livenessProbe', 'readinessProbe'):
        assert container[probe]['httpGet']['path'] in OPEN & paths
    assert container['livenessProbe']['httpGet']['path'] == '/live'  # an engine that is restarted kills no pod
    assert container['readinessProbe']['httpGet']['path'] == '/ready'


def test_a_pod_has_time_to_drain(tmp_path):
    drain = settings(manifest('ConfigMap')['data']['server.yaml'], tmp_path).serve.drain
    before = pod()['containers'][0]['lifecycle']['preStop']['sleep']['seconds']
    assert pod()['terminationGracePeriodSeconds'] >= before + drain + DRAINED


def test_pods_have_no_rights_that_they_do_not_need():
    assert pod()['automountServiceAccountToken'] is False
    assert pod()['securityContext']['runAsNonRoot'] and pod()['securityContext']['runAsUser'] >= 10_000
    rights = pod()['containers'][0]['securityContext']
    assert rights['readOnlyRootFilesystem'] and not rights['allowPrivilegeEscalation']
    assert rights['capabilities'] == {'drop': ['ALL']}


# ------------------------------------------------------------------------------------------------------------ settings
@pytest.mark.parametrize('where', ['kubernetes', 'server.yaml'])
def test_settings_are_flags_of_swift_deploy(where, tmp_path):
    text = manifest('ConfigMap')['data']['server.yaml'] if where == 'kubernetes' else (DEPLOY / where).read_text()
    cfg = settings(text, tmp_path)
    assert cfg.serve.host == '0.0.0.0' and cfg.serve.api_key_file


def test_files_of_settings_are_where_the_pod_mounts_them():
    said = yaml.safe_load(manifest('ConfigMap')['data']['server.yaml'])
    mounts = {mount['name']: mount['mountPath'] for mount in pod()['containers'][0]['volumeMounts']}
    assert said['api_key_file'] == f'{mounts["keys"]}/keys.yaml'
    assert said['model'].startswith(mounts['models'])
    assert pod()['containers'][0]['args'] == ['deploy', f'{mounts["settings"]}/server.yaml']


def test_the_example_of_keys_is_read_and_opens_nothing():
    keys = auth.read_file(DEPLOY / 'keys.example.yaml', Allowance())
    assert {key.id for key in keys} == {'prometheus', 'alice'}
    guesses = ('', 'alice', 'prometheus', 'key', 'secret', 'test', 'THE-KEY')
    assert not {key.digest for key in keys} & {hashlib.sha256(guess.encode()).digest() for guess in guesses}


def test_variables_are_ones_that_swift_reads():
    named = {each['name'] for each in pod()['containers'][0]['env']}
    named |= set(load('compose/compose.yaml')['services']['swift']['environment'])
    assert named <= set(VOCABULARY.variables)


# -------------------------------------------------------------------------------------------------------------- metrics
def known() -> set[str]:
    """Names of everything that /metrics has."""
    made = house()
    try:
        metrics = asyncio.run(made.metrics())
    finally:
        made.chat.close()
        made.close()
    # What only an engine in a process of its own says:
    names = {'swift_engine_restarts', 'swift_engine_heartbeat_age'}
    for metric in metrics:
        names.add(metric.name)
        if metric.kind == 'histogram':
            names.update(f'{metric.name}_{part}' for part in ('bucket', 'sum', 'count'))
    return names


def expressions() -> list[Any]:
    """(where, PromQL) of everything that is asked of Prometheus."""
    found = [(rule['alert'], rule['expr']) for rule in load('prometheus/alerts.yaml')['groups'][0]['rules']]
    board = json.loads((DEPLOY / 'grafana' / 'swift.json').read_text(encoding='utf-8'))
    found += [(panel['title'], target['expr']) for panel in board['panels'] for target in panel['targets']]
    found += [(rule['name']['as'], rule['metricsQuery']) for rule in load('prometheus/adapter.yaml')['rules']['custom']]
    plain = {'$__rate_interval': '5m', '$pod': '.*', '<<.LabelMatchers>>': 'pod="a"'}
    for i, (where, text) in enumerate(found):
        for name, value in plain.items():
            text = text.replace(name, value)
        found[i] = (where, text)
    return [pytest.param(text, id=where) for where, text in found]


@pytest.mark.parametrize('text', expressions())
def test_what_is_asked_of_prometheus_is_promql_about_metrics_that_are_there(text):
    pytest.importorskip('promql_parser').parse(text)
    named = set(re.findall(r'\bswift_\w+', text))
    assert (named or 'up{' in text) and named <= known()


def test_the_autoscaler_reads_what_the_adapter_makes():
    made = {rule['name']['as'] for rule in load('prometheus/adapter.yaml')['rules']['custom']}
    read = {each['pods']['metric']['name'] for each in manifest('HorizontalPodAutoscaler')['spec']['metrics']}
    assert read == made
    for rule in load('prometheus/adapter.yaml')['rules']['custom']:
        assert rule['seriesQuery'].partition('{')[0] in known()


def test_alerts_say_what_and_why():
    for rule in load('prometheus/alerts.yaml')['groups'][0]['rules']:
        assert rule['labels']['severity'] in ('critical', 'warning')
        assert rule['annotations']['summary'] and rule['annotations']['description']


def test_panels_have_their_own_number_and_place():
    panels = json.loads((DEPLOY / 'grafana' / 'swift.json').read_text(encoding='utf-8'))['panels']
    assert len({panel['id'] for panel in panels}) == len(panels)
    places = [panel['gridPos'] for panel in panels]
    assert all(place['x'] + place['w'] <= 24 for place in places)
    for one, other in itertools.combinations(places, 2):
        apart = one['x'] + one['w'] <= other['x'] or other['x'] + other['w'] <= one['x']
        assert apart or one['y'] + one['h'] <= other['y'] or other['y'] + other['h'] <= one['y']


# ------------------------------------------------------------------------------------------------------ images, systemd
@pytest.mark.skipif(shutil.which('hadolint') is None, reason='hadolint reads Dockerfiles')
def test_the_image_passes_its_linter():
    done = subprocess.run(['hadolint', str(DEPLOY / 'Dockerfile')], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_image_runs_as_nobody_and_says_how_it_is():
    text = (DEPLOY / 'Dockerfile').read_text(encoding='utf-8')
    last = text.rpartition('\nFROM ')[2]
    assert re.search(r'^USER [1-9]\d*:[1-9]\d*$', last, re.MULTILINE) and 'HEALTHCHECK' in last
    assert not re.search(r'^(ARG|ENV).*(KEY|TOKEN|SECRET|PASSWORD)', text, re.MULTILINE | re.IGNORECASE)
    extras = re.search(r"'\.\[(.*)\]'", text)[1].split(',')
    project = (DEPLOY.parent / 'pyproject.toml').read_text(encoding='utf-8')
    assert all(re.search(rf'^{extra} = ', project, re.MULTILINE) for extra in extras)


def test_every_file_that_the_image_copies_is_let_in():
    text = (DEPLOY / 'Dockerfile').read_text(encoding='utf-8')
    let_in = set(re.findall(r'^!(\S+)', (DEPLOY / 'Dockerfile.dockerignore').read_text(), re.MULTILINE))
    copied = {word for line in re.findall(r'^COPY (?!--from)(.*) \S+$', text, re.MULTILINE) for word in line.split()}
    assert copied == let_in
    assert all((DEPLOY.parent / name).exists() for name in copied)


def test_containers_of_compose_are_closed():
    compose = load('compose/compose.yaml')
    swift = compose['services']['swift']
    assert swift['read_only'] and swift['cap_drop'] == ['ALL'] and swift['command'][0] == 'deploy'
    assert compose['networks']['inside']['internal']
    published = [port for service in compose['services'].values() for port in service.get('ports', ())]
    assert published == ['127.0.0.1:8000:8000']
    for service in compose['services'].values():
        assert 'build' in service or re.search(r':\d', service['image'])


def unit() -> str:
    return (DEPLOY / 'systemd' / 'swift.service').read_text(encoding='utf-8')


def test_the_unit_runs_flags_of_swift_deploy():
    line = re.search(r'^ExecStart=(.*)$', unit(), re.MULTILINE)[1]
    flags = re.findall(r'--(\w+) ', line)
    assert flags and not [name for name in flags if not hasattr(CONFIGS['deploy']().serve, name)]


@pytest.mark.skipif(shutil.which('systemd-analyze') is None, reason='systemd-analyze reads units')
def test_the_unit_is_one_and_is_hardened(tmp_path):
    path = tmp_path / 'swift.service'
    path.write_text(unit().replace('/opt/swift/bin/swift', '/bin/true'))
    done = subprocess.run(['systemd-analyze', 'verify', str(path)], capture_output=True, text=True)
    assert done.returncode == 0 and 'swift.service' not in done.stderr, done.stderr
    judged = subprocess.run(
        ['systemd-analyze', 'security', '--offline=yes', '--threshold=25', str(path)], capture_output=True, text=True
    )
    assert judged.returncode == 0, judged.stdout[-300:]
