"""The jobs an admin does, one file each; ``ACTIONS`` finds them by their words on the command line."""

from __future__ import annotations

from statelesskit.action import Action
from statelesskit.actions.acknowledge_changes import AcknowledgeChanges
from statelesskit.actions.add_client import AddClient
from statelesskit.actions.change_account import AddAccount, RemoveAccount
from statelesskit.actions.change_role import GrantRole, RevokeRole
from statelesskit.actions.collect_snapshots import CollectSnapshots
from statelesskit.actions.copy_snapshot import CopySnapshot
from statelesskit.actions.create_channel import CreateChannel
from statelesskit.actions.create_prototype import CreatePrototype
from statelesskit.actions.delete_snapshot import DeleteSnapshot
from statelesskit.actions.enrol_client import EnrolClient
from statelesskit.actions.import_clients import ImportClients, UndoImport
from statelesskit.actions.import_snapshot import ImportSnapshot
from statelesskit.actions.install_client import InstallClient
from statelesskit.actions.make_replica import MakeReplica
from statelesskit.actions.manage_clients import ChangeClient, PinClient, RemoveClient, UnpinClient
from statelesskit.actions.manage_groups import AddToGroup, ChangeGroup, CreateGroup, DeleteGroup, RemoveFromGroup
from statelesskit.actions.migrate_site import MigrateSite
from statelesskit.actions.note_snapshot import NoteSnapshot
from statelesskit.actions.prepare_prototype import PreparePrototype
from statelesskit.actions.prune_records import PruneRecords
from statelesskit.actions.publish_checkpoint import PublishCheckpoint
from statelesskit.actions.push_snapshot import PushSnapshot, RollBackPush
from statelesskit.actions.refresh_publication import RefreshPublication
from statelesskit.actions.remove_channel import RemoveChannel
from statelesskit.actions.repair_snapshots import RepairSnapshots
from statelesskit.actions.restore_site import RestoreSite
from statelesskit.actions.rotate_key import RotateKey
from statelesskit.actions.set_snapshot_state import SetSnapshotState
from statelesskit.actions.take_snapshot import TakeSnapshot

ACTIONS: dict[str, type[Action]] = {
    action.verb: action
    for action in (
        AcknowledgeChanges,
        AddAccount,
        AddClient,
        AddToGroup,
        ChangeClient,
        ChangeGroup,
        CollectSnapshots,
        CopySnapshot,
        CreateChannel,
        CreateGroup,
        CreatePrototype,
        DeleteGroup,
        DeleteSnapshot,
        EnrolClient,
        GrantRole,
        MigrateSite,
        MakeReplica,
        NoteSnapshot,
        ImportClients,
        ImportSnapshot,
        InstallClient,
        PinClient,
        PreparePrototype,
        PruneRecords,
        PublishCheckpoint,
        PushSnapshot,
        RefreshPublication,
        RemoveAccount,
        RevokeRole,
        RemoveChannel,
        RemoveClient,
        RemoveFromGroup,
        RollBackPush,
        RepairSnapshots,
        RestoreSite,
        RotateKey,
        SetSnapshotState,
        TakeSnapshot,
        UnpinClient,
        UndoImport,
    )
}
