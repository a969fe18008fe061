// The bench's operator on client-go: shared informers, a workqueue and a number of workers, as its own sample
// controller has them. For each Card it keeps a ConfigMap that it owns and says so in the status.
//
// BENCH_SERVER, BENCH_TOKEN_FILE, BENCH_CA_FILE, BENCH_NAMESPACE and BENCH_WORKERS tell where and how. With
// BENCH_ONLY_CACHE it fills a cache of Cards, trimmed by a transform, and does nothing else. With BENCH_APPLY it writes
// by server-side apply instead of create, update and status update. BENCH_JSON keeps it from protobuf, which the fault
// proxy cannot cut into events.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
)

const manager = "bench-clientgo"

var group = schema.GroupVersion{Group: "bench.example.dev", Version: "v1"}

// Card is the bench's custom resource.
type Card struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              CardSpec   `json:"spec"`
	Status            CardStatus `json:"status,omitempty"`
}

// CardSpec is what the owner wants.
type CardSpec struct {
	Text string `json:"text"`
}

// CardStatus is what the operator says.
type CardStatus struct {
	ObservedGeneration int64              `json:"observedGeneration,omitempty"`
	Conditions         []metav1.Condition `json:"conditions,omitempty"`
}

// DeepCopyObject is what runtime.Object asks for.
func (c *Card) DeepCopyObject() runtime.Object { return c.DeepCopy() }

// DeepCopy copies all that is reached through pointers.
func (c *Card) DeepCopy() *Card {
	out := &Card{TypeMeta: c.TypeMeta, Spec: c.Spec, Status: c.Status}
	c.ObjectMeta.DeepCopyInto(&out.ObjectMeta)
	if c.Status.Conditions != nil {
		out.Status.Conditions = make([]metav1.Condition, len(c.Status.Conditions))
		for i := range c.Status.Conditions {
			c.Status.Conditions[i].DeepCopyInto(&out.Status.Conditions[i])
		}
	}
	return out
}

// CardList is a list of Cards.
type CardList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Card `json:"items"`
}

// DeepCopyObject is what runtime.Object asks for.
func (l *CardList) DeepCopyObject() runtime.Object {
	out := &CardList{TypeMeta: l.TypeMeta}
	l.ListMeta.DeepCopyInto(&out.ListMeta)
	out.Items = make([]Card, len(l.Items))
	for i := range l.Items {
		out.Items[i] = *l.Items[i].DeepCopy()
	}
	return out
}

// operator holds the caches, the queue and the ways to write.
type operator struct {
	cards     rest.Interface
	core      kubernetes.Interface
	cardCache cache.SharedIndexInformer
	mapCache  cache.SharedIndexInformer
	queue     workqueue.TypedRateLimitingInterface[string]
	apply     bool
}

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return value
}

func main() {
	config := &rest.Config{
		Host:            os.Getenv("BENCH_SERVER"),
		BearerTokenFile: os.Getenv("BENCH_TOKEN_FILE"),
		TLSClientConfig: rest.TLSClientConfig{CAFile: os.Getenv("BENCH_CA_FILE")},
		UserAgent:       manager,
		QPS:             -1, // no limit on the client's side
	}
	namespace := os.Getenv("BENCH_NAMESPACE")
	workers := must(strconv.Atoi(os.Getenv("BENCH_WORKERS")))

	kinds := runtime.NewScheme()
	kinds.AddKnownTypes(group, &Card{}, &CardList{})
	metav1.AddToGroupVersion(kinds, group)
	own := rest.CopyConfig(config)
	own.GroupVersion, own.APIPath = &group, "/apis"
	own.NegotiatedSerializer = serializer.NewCodecFactory(kinds).WithoutConversion()
	cards := must(rest.RESTClientFor(own))
	binary := rest.CopyConfig(config) // built-in kinds go as protobuf, the usual choice of controllers
	if os.Getenv("BENCH_JSON") == "" {
		binary.ContentType = "application/vnd.kubernetes.protobuf"
		binary.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	}
	core := must(kubernetes.NewForConfig(binary))

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()

	cardCache := cache.NewSharedIndexInformer(
		cache.NewListWatchFromClient(cards, "cards", namespace, fields.Everything()), &Card{}, 0, cache.Indexers{})
	must(0, cardCache.SetTransform(trim))
	if os.Getenv("BENCH_ONLY_CACHE") != "" {
		go cardCache.Run(ctx.Done())
		cache.WaitForCacheSync(ctx.Done(), cardCache.HasSynced)
		<-ctx.Done()
		return
	}
	mapWatch := cache.NewFilteredListWatchFromClient(core.CoreV1().RESTClient(), "configmaps", namespace,
		func(options *metav1.ListOptions) { options.LabelSelector = "app=bench" })
	mapCache := cache.NewSharedIndexInformer(mapWatch, &corev1.ConfigMap{}, 0, cache.Indexers{})
	must(0, mapCache.SetTransform(trim))

	o := &operator{cards: cards, core: core, cardCache: cardCache, mapCache: mapCache, apply: os.Getenv("BENCH_APPLY") != ""}
	// Failures back off for each key; there is no limit over all of them.
	o.queue = workqueue.NewTypedRateLimitingQueue(
		workqueue.NewTypedItemExponentialFailureRateLimiter[string](5*time.Millisecond, 1000*time.Second))
	must(cardCache.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: o.enqueue,
		UpdateFunc: func(old, new any) {
			// What the operator writes itself, the status, is no reason for a pass.
			before, after := old.(*Card), new.(*Card)
			if before.ResourceVersion == after.ResourceVersion || before.Generation != after.Generation ||
				!sameStrings(before.Annotations, after.Annotations) || !sameStrings(before.Labels, after.Labels) {
				o.enqueue(new)
			}
		},
		DeleteFunc: o.enqueue,
	}))
	must(mapCache.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    o.enqueueOwner,
		UpdateFunc: func(_, new any) { o.enqueueOwner(new) },
		DeleteFunc: o.enqueueOwner,
	}))
	go cardCache.Run(ctx.Done())
	go mapCache.Run(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), cardCache.HasSynced, mapCache.HasSynced) {
		return
	}
	var group sync.WaitGroup
	for range workers {
		group.Add(1)
		go func() {
			defer group.Done()
			for o.next(ctx) {
			}
		}()
	}
	<-ctx.Done()
	o.queue.ShutDown()
	group.Wait()
}

// trim drops what nobody here reads before an object is stored.
func trim(obj any) (any, error) {
	if accessor, err := meta.Accessor(obj); err == nil {
		accessor.SetManagedFields(nil)
	}
	return obj, nil
}

func sameStrings(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for name, value := range a {
		if other, found := b[name]; !found || other != value {
			return false
		}
	}
	return true
}

func (o *operator) enqueue(obj any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
		o.queue.Add(key)
	}
}

func (o *operator) enqueueOwner(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	child, ok := obj.(*corev1.ConfigMap)
	if !ok {
		return
	}
	if owner := metav1.GetControllerOf(child); owner != nil && owner.Kind == "Card" {
		o.queue.Add(child.Namespace + "/" + owner.Name)
	}
}

func (o *operator) next(ctx context.Context) bool {
	key, ended := o.queue.Get()
	if ended {
		return false
	}
	defer o.queue.Done(key)
	if err := o.reconcile(ctx, key); err != nil {
		if !errors.Is(err, context.Canceled) {
			utilruntime.HandleErrorWithContext(ctx, err, "retrying", "key", key)
		}
		o.queue.AddRateLimited(key)
		return true
	}
	o.queue.Forget(key)
	return true
}

func (o *operator) reconcile(ctx context.Context, key string) error {
	obj, found, err := o.cardCache.GetStore().GetByKey(key)
	if err != nil || !found {
		return err // the ConfigMap goes with its owner
	}
	card := obj.(*Card)
	if card.DeletionTimestamp != nil {
		return nil
	}
	if err := o.ensure(ctx, card); err != nil {
		return err
	}
	return o.report(ctx, card)
}

func wanted(card *Card) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "ConfigMap"},
		ObjectMeta: metav1.ObjectMeta{
			Name:            card.Name + "-card",
			Namespace:       card.Namespace,
			Labels:          map[string]string{"app": "bench"},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(card, group.WithKind("Card"))},
		},
		Data: map[string]string{"text": card.Spec.Text},
	}
}

func (o *operator) ensure(ctx context.Context, card *Card) error {
	desired := wanted(card)
	maps := o.core.CoreV1().ConfigMaps(card.Namespace)
	obj, found, err := o.mapCache.GetStore().GetByKey(desired.Namespace + "/" + desired.Name)
	if err != nil {
		return err
	}
	if found {
		current := obj.(*corev1.ConfigMap)
		if sameStrings(current.Data, desired.Data) && current.Labels["app"] == "bench" && metav1.IsControlledBy(current, card) {
			return nil
		}
		if !o.apply {
			current = current.DeepCopy()
			current.Data, current.Labels, current.OwnerReferences = desired.Data, desired.Labels, desired.OwnerReferences
			_, err = maps.Update(ctx, current, metav1.UpdateOptions{FieldManager: manager})
			return err
		}
	}
	if o.apply {
		body := must(json.Marshal(desired))
		force := true
		_, err = maps.Patch(ctx, desired.Name, types.ApplyPatchType, body, metav1.PatchOptions{FieldManager: manager, Force: &force})
		return err
	}
	_, err = maps.Create(ctx, desired, metav1.CreateOptions{FieldManager: manager})
	if apierrors.IsAlreadyExists(err) {
		return nil // written by an earlier pass: the cache will tell, and bring the key back
	}
	return err
}

func (o *operator) report(ctx context.Context, cached *Card) error {
	card := cached.DeepCopy()
	changed := meta.SetStatusCondition(&card.Status.Conditions, metav1.Condition{
		Type: "Ready", Status: metav1.ConditionTrue, Reason: "CardWritten", ObservedGeneration: card.Generation,
	})
	if !changed && card.Status.ObservedGeneration == card.Generation {
		return nil
	}
	card.Status.ObservedGeneration = card.Generation
	request := o.cards.Put()
	var body any = card
	if o.apply {
		request = o.cards.Patch(types.ApplyPatchType).Param("force", "true")
		body = must(json.Marshal(map[string]any{
			"apiVersion": group.String(), "kind": "Card", "status": card.Status,
			"metadata": map[string]any{"name": card.Name, "namespace": card.Namespace, "uid": card.UID},
		}))
	}
	return request.Namespace(card.Namespace).Resource("cards").Name(card.Name).SubResource("status").
		Param("fieldManager", manager).Body(body).Do(ctx).Error()
}
